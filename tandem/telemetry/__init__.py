"""How a process is watched from outside: Prometheus metrics and OpenTelemetry traces, both off by default."""
