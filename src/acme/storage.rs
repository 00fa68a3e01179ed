//! Traefik's acme.json, read and written so that Traefik can take over at any time.
//!
//! Only certificates are added or replaced; `Account` objects, other resolvers and fields that we do not know stay as they are.
//! Each change is made on what the file says at that moment, under a lock, so that a second process loses nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use crate::config::dynamic::Domain;
use crate::durable::{self, Recovered};

/// One storage file.
#[derive(Clone, Debug)]
pub struct Storage {
    path: PathBuf,
}

/// One certificate as it is stored: PEM texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCertificate {
    /// The names it was obtained for.
    pub domain: Domain,
    /// The chain, the server's own certificate first.
    pub chain: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

/// What a storage file said at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document(Map<String, Value>);

/// Why a storage file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Others may read the keys. Traefik's words, which monitoring may look for.
    #[error("permissions {mode:o} for {path} are too open, please use 600")]
    TooOpen {
        /// The permission bits.
        mode: u32,
        /// The file.
        path: String,
    },
    /// It, or a folder above it, belongs to somebody else: to root, where a Traefik ran as root.
    #[error(
        "{path} belongs to user {owner} and cannot be used by user {user}, as whom this process runs: run `chown {user} {path}`"
    )]
    NotOurs {
        /// The file or folder.
        path: String,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// It is not what Traefik writes. It is left alone.
    #[error("{path} is not a storage file for certificates: {reason}")]
    Invalid {
        /// The file.
        path: String,
        /// What was found.
        reason: String,
    },
    /// Another process writes it just now.
    #[error("{path} is being written by another process")]
    Busy {
        /// The file.
        path: String,
    },
    /// The system refused.
    #[error("{path} cannot be {attempted}: {source}")]
    Io {
        /// The file.
        path: String,
        /// `created`, `read`, `written` or `locked`.
        attempted: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl Storage {
    /// Opens the file, which is created empty if it is missing, and says what it holds.
    pub fn open(path: &Path) -> Result<(Self, Document), StorageError> {
        let storage = Self { path: path.to_owned() };
        match fs::metadata(path) {
            Ok(found) => storage.check_access(&found)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
                created.map_err(|source| storage.refused("created", source))?;
            }
            Err(source) => return Err(storage.refused("read", source)),
        }
        let document = storage.read()?;
        Ok((storage, document))
    }

    /// Adds certificates, or replaces those for the same names of the same resolver, and says what the file holds then.
    pub fn store(&self, changes: &[(String, StoredCertificate)]) -> Result<Document, StorageError> {
        let _lock = self.lock()?;
        let mut document = self.read()?;
        for (resolver, certificate) in changes {
            document.put(resolver, certificate);
        }
        durable::replace(&self.path, document.to_text().as_bytes()).map_err(|source| self.io("written", source))?;
        Ok(document)
    }

    /// Where our own state stands: account keys that Traefik could not read, and failed attempts.
    pub fn own_state_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".tidegate.json");
        path.into()
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self) -> Result<Document, StorageError> {
        let (outcome, recovered) = durable::read(&self.path, Document::parse).map_err(|source| self.io("read", source))?;
        if recovered == Recovered::FromCopy {
            tracing::warn!(path = %self.path.display(), "certificates recovered from the copy beside a storage file that was cut short");
        }
        outcome.map_err(|reason| StorageError::Invalid { path: self.shown(), reason })
    }

    fn check_access(&self, found: &fs::Metadata) -> Result<(), StorageError> {
        let mode = found.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StorageError::TooOpen { mode, path: self.shown() });
        }
        File::open(&self.path).map(drop).map_err(|source| self.refused("read", source))
    }

    /// An error that names the `chown` which helps, if one does: of the file, or of the nearest folder above that can be seen.
    fn refused(&self, attempted: &'static str, source: io::Error) -> StorageError {
        let seen = self.path.ancestors().filter(|path| !path.as_os_str().is_empty());
        let nearest = seen.filter_map(|path| Some((path, fs::metadata(path).ok()?))).next();
        match nearest {
            Some((path, found)) if source.kind() == ErrorKind::PermissionDenied => StorageError::NotOurs {
                path: path.display().to_string(),
                owner: found.uid(),
                user: rustix::process::geteuid().as_raw(),
            },
            _ => self.io(attempted, source),
        }
    }

    /// Held until what is returned is dropped. A file of its own, because renaming gives the storage file a new identity; where
    /// none can be made nothing is renamed either, and the storage file itself serves.
    fn lock(&self) -> Result<File, StorageError> {
        let mut path = self.path.clone().into_os_string();
        path.push(".tidegate.lock");
        let own = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(PathBuf::from(path));
        let file = own.or_else(|_| File::open(&self.path)).map_err(|source| self.io("locked", source))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(StorageError::Busy { path: self.shown() }),
            Err(fs::TryLockError::Error(source)) => Err(self.io("locked", source)),
        }
    }

    fn io(&self, attempted: &'static str, source: io::Error) -> StorageError {
        StorageError::Io { path: self.shown(), attempted, source }
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

impl Document {
    /// Reads the text of a storage file; an empty one is an empty document.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        match serde_json::from_slice(text).map_err(|error| error.to_string())? {
            Value::Object(resolvers) => Ok(Self(resolvers)),
            Value::Null => Ok(Self::default()),
            _ => Err("it is not a JSON object".to_owned()),
        }
    }

    /// As Traefik writes it: indented by two spaces.
    pub fn to_text(&self) -> String {
        // A map of JSON values always has a text.
        serde_json::to_string_pretty(&self.0).unwrap_or_default()
    }

    /// The certificates of a resolver, and a sentence for each entry that cannot be read.
    pub fn certificates(&self, resolver: &str) -> (Vec<StoredCertificate>, Vec<String>) {
        let mut certificates = Vec::new();
        let mut unreadable = Vec::new();
        let entries = self.0.get(resolver).and_then(|resolver| resolver.get("Certificates")).and_then(Value::as_array);
        for (index, entry) in entries.into_iter().flatten().enumerate() {
            match StoredCertificate::parse(entry) {
                Some(certificate) => certificates.push(certificate),
                None => unreadable.push(format!("entry {index} of `{resolver}.Certificates` is not a certificate")),
            }
        }
        (certificates, unreadable)
    }

    fn put(&mut self, resolver: &str, certificate: &StoredCertificate) {
        let resolver = self.0.entry(resolver).or_insert(Value::Null);
        if !resolver.is_object() {
            *resolver = json!({ "Account": null, "Certificates": [] });
        }
        let Some(entries) = resolver.as_object_mut().map(|fields| fields.entry("Certificates").or_insert(Value::Null)) else {
            return;
        };
        if !entries.is_array() {
            *entries = json!([]);
        }
        let Some(entries) = entries.as_array_mut() else {
            return;
        };
        let same =
            entries.iter_mut().find(|entry| parse_domain(entry).is_some_and(|domain| is_same(&domain, &certificate.domain)));
        match same.and_then(Value::as_object_mut) {
            Some(entry) => {
                entry.insert("certificate".to_owned(), BASE64_STANDARD.encode(&certificate.chain).into());
                entry.insert("key".to_owned(), BASE64_STANDARD.encode(&certificate.key).into());
            }
            None => entries.push(certificate.to_value()),
        }
    }
}

impl StoredCertificate {
    fn parse(entry: &Value) -> Option<Self> {
        let decode = |field: &str| BASE64_STANDARD.decode(entry.get(field)?.as_str()?).ok();
        Some(Self { domain: parse_domain(entry)?, chain: decode("certificate")?, key: decode("key")? })
    }

    fn to_value(&self) -> Value {
        let domain = match self.domain.sans.as_slice() {
            [] => json!({ "main": self.domain.main }),
            sans => json!({ "main": self.domain.main, "sans": sans }),
        };
        json!({
            "domain": domain,
            "certificate": BASE64_STANDARD.encode(&self.chain),
            "key": BASE64_STANDARD.encode(&self.key),
            "Store": "default",
        })
    }
}

fn parse_domain(entry: &Value) -> Option<Domain> {
    let domain = entry.get("domain")?;
    let sans = domain.get("sans").and_then(Value::as_array);
    let sans = sans.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Some(Domain { main: domain.get("main")?.as_str()?.to_owned(), sans })
}

/// Whether two domains name the same certificate: the same names in any order.
pub(super) fn is_same(left: &Domain, right: &Domain) -> bool {
    super::schedule::name_set(left) == super::schedule::name_set(right)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What a Traefik writes, with a field of a version that we do not know.
    const TRAEFIK: &str = r#"{
  "letsencrypt": {
    "Account": {
      "Email": "ops@cljdoc.example",
      "Registration": {
        "body": {
          "status": "valid",
          "contact": [
            "mailto:ops@cljdoc.example"
          ]
        },
        "uri": "https://acme-v02.api.letsencrypt.org/acme/acct/1"
      },
      "PrivateKey": "MIIJKAIBAAKCAgEA",
      "KeyType": "2048"
    },
    "Certificates": [
      {
        "domain": {
          "main": "cljdoc.org"
        },
        "certificate": "Y2hhaW4=",
        "key": "a2V5",
        "Store": "default"
      },
      {
        "domain": {
          "main": "a.test",
          "sans": [
            "b.test"
          ]
        },
        "certificate": "Y2hhaW4y",
        "key": "a2V5Mg==",
        "Store": "default",
        "Later": 1
      }
    ]
  },
  "other": {
    "Account": null,
    "Certificates": null
  }
}"#;

    fn domain(main: &str, sans: &[&str]) -> Domain {
        Domain { main: main.to_owned(), sans: sans.iter().map(|name| (*name).to_owned()).collect() }
    }

    fn certificate(main: &str, sans: &[&str], chain: &str) -> StoredCertificate {
        StoredCertificate { domain: domain(main, sans), chain: chain.into(), key: b"key".to_vec() }
    }

    #[test]
    fn traefiks_file_is_read_and_written_back_byte_by_byte() {
        let document = Document::parse(TRAEFIK.as_bytes()).unwrap();
        let (certificates, unreadable) = document.certificates("letsencrypt");
        assert!(unreadable.is_empty());
        assert_eq!(certificates[0], certificate("cljdoc.org", &[], "chain"));
        assert_eq!(certificates[1].domain, domain("a.test", &["b.test"]));
        assert_eq!(document.certificates("other").0, []);
        assert_eq!(document.certificates("nobody").0, []);
        assert_eq!(document.to_text(), TRAEFIK);
    }

    #[test]
    fn a_renewed_certificate_replaces_its_entry_and_nothing_else() {
        let mut document = Document::parse(TRAEFIK.as_bytes()).unwrap();
        document.put("letsencrypt", &certificate("b.test", &["a.test"], "new"));
        document.put("letsencrypt", &certificate("c.test", &[], "third"));
        document.put("other", &certificate("d.test", &[], "fourth"));
        document.put("fresh", &certificate("e.test", &[], "fifth"));
        let expected =
            TRAEFIK.replace("Y2hhaW4y", &BASE64_STANDARD.encode("new")).replace("a2V5Mg==", &BASE64_STANDARD.encode("key"));
        let mut expected: Value = serde_json::from_str(&expected).unwrap();
        let stored = |main: &str, chain: &str| certificate(main, &[], chain).to_value();
        expected["letsencrypt"]["Certificates"].as_array_mut().unwrap().push(stored("c.test", "third"));
        expected["other"]["Certificates"] = json!([stored("d.test", "fourth")]);
        expected["fresh"] = json!({ "Account": null, "Certificates": [stored("e.test", "fifth")] });
        assert_eq!(Value::Object(document.0), expected);
    }

    #[test]
    fn a_missing_file_is_created_empty_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        let (storage, document) = Storage::open(&path).unwrap();
        assert_eq!(document, Document::default());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"");
        storage.store(&[("le".to_owned(), certificate("a.test", &[], "chain"))]).unwrap();
        let (_, document) = Storage::open(&path).unwrap();
        assert_eq!(document.certificates("le").0, [certificate("a.test", &[], "chain")]);
    }

    #[test]
    fn two_processes_keep_each_others_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        let (first, _) = Storage::open(&path).unwrap();
        let (second, _) = Storage::open(&path).unwrap();
        first.store(&[("le".to_owned(), certificate("a.test", &[], "a"))]).unwrap();
        let held = second.lock().unwrap();
        let busy = first.store(&[("le".to_owned(), certificate("c.test", &[], "c"))]);
        assert!(matches!(busy, Err(StorageError::Busy { .. })), "{busy:?}");
        drop(held);
        let document = second.store(&[("le".to_owned(), certificate("b.test", &[], "b"))]).unwrap();
        assert_eq!(document.certificates("le").0.len(), 2);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_in_traefiks_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        fs::write(&path, TRAEFIK).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Storage::open(&path).unwrap_err().to_string();
        assert_eq!(error, format!("permissions 644 for {} are too open, please use 600", path.display()));
    }

    #[test]
    fn a_file_that_is_no_storage_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        let (storage, _) = Storage::open(&path).unwrap();
        fs::write(&path, "{\"le\": ").unwrap();
        assert!(matches!(Storage::open(&path), Err(StorageError::Invalid { .. })));
        assert!(storage.store(&[("le".to_owned(), certificate("a.test", &[], "a"))]).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"le\": ");
    }
}
