# cljdoc.org's load balancer as a Nomad job, Tidegate in Traefik's place.
#
# What differs from a job that runs Traefik is the image; the dropped capabilities, the check of ping and kill_timeout would do
# Traefik good, too. The install configuration, which cljdoc's deploy step writes to Consul's KV store, the tags of cljdoc's job,
# /data with acme.json and the logs, the ports, and the rotation of logs stay as they are. The way back is the other image.

job "lb" {
  datacenters = ["dc1"]
  type        = "service"

  group "lb" {
    # Its ports are those of the machine: there can be one.
    count = 1

    network {
      mode = "host"

      port "http" {
        static = 80
      }
      port "https" {
        static = 443
      }
      port "jmx" {
        static = 9010
      }
      # ping, metrics, API and dashboard.
      port "admin" {
        static = 8080
      }
    }

    # Nomad starts it again at once, and never gives up: there is nothing else that could serve the site.
    restart {
      attempts = 10
      interval = "5m"
      delay    = "1s"
      mode     = "delay"
    }

    service {
      name = "traefik"
      port = "http"

      check {
        name     = "accepts connections"
        type     = "tcp"
        port     = "http"
        interval = "10s"
        timeout  = "2s"
      }

      # 503 until the first snapshot of the catalog, and while it drains.
      check {
        name     = "ping"
        type     = "http"
        port     = "admin"
        path     = "/ping"
        interval = "10s"
        timeout  = "2s"
      }
    }

    # The task keeps Traefik's name, because the container is called after it and the rotation of logs finds it by that:
    #   docker kill -s USR1 $(docker ps --quiet --filter name=^traefik)
    # Tidegate reopens both of its logs then (Traefik only the access log).
    task "traefik" {
      driver = "docker"

      config {
        image = "tidegate:0.1.0"
        # Consul at 127.0.0.1:8500 and the instances' ports are the machine's.
        network_mode = "host"
        # Root inside the container, for what belongs to root in /data, but with no power over the machine except low ports.
        cap_drop = ["all"]
        cap_add  = ["net_bind_service"]

        volumes = [
          "local/traefik.yaml:/etc/traefik/traefik.yaml:ro",
          # acme.json, access.log, traefik.log. The whole folder, not the file acme.json alone: only so can it be replaced at once
          # as a whole (a single file is written in place, with a copy beside it).
          "/data:/data",
        ]
      }

      # What cljdoc's deploy step wrote. A change restarts the proxy, since the install configuration is read at start; routers
      # and middlewares are in the tags of cljdoc's own job, and change without that.
      template {
        destination = "local/traefik.yaml"
        change_mode = "restart"
        data        = "{{ key \"config/traefik-yaml\" }}"
      }

      # Nothing has to be added for Tidegate; what can be set stands in config/traefik.yaml under `tidegate:`. So that a rollout
      # goes on where it was after a restart of this job, put its state on the volume:
      #   tidegate:
      #     state: /data/tidegate

      # SIGTERM, then so long for running requests (graceTimeOut is 10 s), then the end.
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      resources {
        cpu    = 200 # MHz
        memory = 256 # MiB
      }
    }
  }
}
