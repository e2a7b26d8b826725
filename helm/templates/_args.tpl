{{/* Command lines. The tests give each to the program's own parser. */}}

{{- define "tandem.tlsArgs" -}}
{{- if ne .Values.tls.mode "disabled" }}
- --tls-cert=/etc/tandem/tls/tls.crt
- --tls-key=/etc/tandem/tls/tls.key
- --tls-ca=/etc/tandem/tls/ca.crt
{{- end }}
{{- end -}}

{{- define "tandem.orchestratorArgs" -}}
{{- $own := .Values.orchestrator -}}
- up
- --backend=kubernetes
- --release={{ .Release.Name }}
{{- if eq .Values.tls.mode "disabled" }}
- --advertise={{ include "tandem.ip" . }}:7420
{{- else }}
- --advertise=$(POD_NAME).{{ .Release.Name }}-orchestrator-pods.{{ .Release.Namespace }}.svc:7420
{{- end }}
- --leader-seconds={{ $own.leaderSeconds }}
{{- if eq (int $own.replicas) 1 }}
- --alone
{{- end }}
{{- if eq .Values.mode "colocated" }}
- --pairs
{{- end }}
{{- if eq .Values.reasoner.autoscaling.mode "orchestrator" }}
- --autoscale
{{- if ne .Values.mode "colocated" }}
- --min-encoders={{ int .Values.encoder.autoscaling.minReplicas }}
- --max-encoders={{ int .Values.encoder.autoscaling.maxReplicas }}
{{- end }}
- --min-reasoners={{ int .Values.reasoner.autoscaling.minReplicas }}
- --max-reasoners={{ int .Values.reasoner.autoscaling.maxReplicas }}
- --lag-goal-seconds={{ $own.goals.lagSeconds }}
- --first-token-goal-seconds={{ $own.goals.firstTokenSeconds }}
{{- end }}
- --listen={{ include "tandem.ip" . }}:7420
- --health={{ include "tandem.ip" . }}:7440
- --run-dir=/var/lib/tandem/run
- --secret-file=/etc/tandem/secret/secret
- {{ printf "--model=%s" .Values.model.name | toJson }}
- --max-streams={{ int $own.maxStreams }}
- --resume-seconds={{ int $own.resumeSeconds }}
- --backlog-bytes={{ int64 $own.backlogBytes }}
- --keep-seconds={{ $own.keepSeconds }}
- --lease-seconds={{ $own.leaseSeconds }}
- --log-level={{ .Values.log.level }}
- --log-format={{ .Values.log.format }}
{{- if ne .Values.metrics.scrape "none" }}
- --metrics={{ include "tandem.ip" . }}:9400
{{- end }}
{{- if .Values.tracing.endpoint }}
- --trace-frames={{ .Values.tracing.frameSeconds }}
{{- end }}
{{- if .Values.orchestrator.quotas }}
- --quotas=/etc/tandem/quotas/quotas.toml
{{- end }}
{{- include "tandem.tlsArgs" . }}
{{- if .Values.tokens.existingSecret }}
- --tokens=/etc/tandem/tokens/{{ .Values.tokens.key }}
{{- end }}
{{- if not (or (eq .Values.tls.mode "disabled") .Values.tls.clientCertificates) }}
- --tls-any-caller
{{- end }}
{{- if and (eq .Values.tls.mode "disabled") (not .Values.tokens.existingSecret) }}
- --insecure-network
{{- end }}
{{- with $own.extraArgs }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{/* root, role, port, and health and metrics: ports that differ for two containers of one pod. */}}
{{- define "tandem.serviceArgs" -}}
{{- $own := index .root.Values .role -}}
{{- $ip := include "tandem.ip" .root -}}
- {{ .role }}
{{- if eq .root.Values.mode "colocated" }}
- --name=$(POD_NAME)-{{ .role }}
{{- else }}
- --name=$(POD_NAME)
{{- end }}
- --listen={{ $ip }}:{{ .port }}
{{- if ne .root.Values.tls.mode "disabled" }}
{{- /* By its name: certificates have no addresses. Without TLS by its address: a name lags behind a new pod. */}}
- --advertise=$(POD_NAME).{{ include "tandem.name" . }}.{{ .root.Release.Namespace }}.svc:{{ .port }}
{{- end }}
- --gloo-host=$(POD_IP)
- --lanes={{ ternary "shm,gloo" "gloo" (eq .root.Values.mode "colocated") }}
- --orchestrator={{ include "tandem.door" .root }}
- --secret-file=/etc/tandem/secret/secret
- --health={{ $ip }}:{{ .health }}
{{- if ne .root.Values.metrics.scrape "none" }}
- --metrics={{ $ip }}:{{ .metrics }}
{{- end }}
- {{ printf "--model=%s" .root.Values.model.name | toJson }}
{{- with .root.Values.model.revision }}
- --revision={{ . }}
{{- end }}
- --load-format={{ .root.Values.model.loadFormat }}
{{- with .root.Values.model.dtype }}
- --dtype={{ . }}
{{- end }}
- --device={{ include "tandem.device" . }}
- --max-pixels={{ int64 .root.Values.model.maxPixels }}
- {{ printf "--embedder=%s" .root.Values.model.embedder | toJson }}
{{- with .root.Values.model.embedderRevision }}
- --embedder-revision={{ . }}
{{- end }}
- --threads={{ include "tandem.threads" $own }}
- --max-streams={{ int $own.maxStreams }}
- --log-level={{ .root.Values.log.level }}
- --log-format={{ .root.Values.log.format }}
{{- include "tandem.tlsArgs" .root }}
{{- end -}}

{{- define "tandem.encoderArgs" -}}
{{- $own := .root.Values.encoder -}}
{{- include "tandem.serviceArgs" (merge (dict "role" "encoder" "port" 7431) .) }}
- --window-units={{ int $own.windowUnits }}
- --block-codec={{ .root.Values.model.blockCodec }}
- --decode-memory-bytes={{ int64 (dig "decode" "memoryBytes" 1073741824 $own) }}
- --decode-cpu-s={{ int (dig "decode" "cpuSeconds" 10 $own) }}
- --drain-s={{ $own.drainSeconds }}
{{- with $own.extraArgs }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{- define "tandem.reasonerArgs" -}}
{{- $own := .root.Values.reasoner -}}
{{- include "tandem.serviceArgs" (merge (dict "role" "reasoner" "port" 7432) .) }}
- --ram-bytes={{ int64 $own.ramBytes }}
- --pool-bytes={{ int64 $own.poolBytes }}
- --view-tokens={{ int64 $own.viewTokens }}
- {{ printf "--retrieval=%s" $own.retrieval | toJson }}
- --max-workers={{ int $own.maxWorkers }}
- --drain-seconds={{ $own.drainSeconds }}
{{- if ne $own.disk.mode "none" }}
- --data-dir=/var/lib/tandem/blocks/kv
- --disk-bytes={{ include "tandem.diskBytes" .root }}
- --keep-hours={{ $own.disk.keepHours }}
{{- end }}
{{- with $own.extraArgs }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{- define "tandem.diskBytes" -}}
{{- $disk := .Values.reasoner.disk -}}
{{- if gt (int64 $disk.bytes) 0 -}}
{{- int64 $disk.bytes -}}
{{- else -}}
{{- mulf (float64 (include "tandem.bytes" $disk.size)) 0.9 | floor | int64 -}}
{{- end -}}
{{- end -}}

{{/*
Threads of torch: as many as the container may use. Torch counts the node's processors, and what it starts beyond the
limit waits for its turn.
*/}}
{{- define "tandem.threads" -}}
{{- $limit := .resources.limits.cpu -}}
{{- if and (eq (int .threads) 0) $limit -}}
{{- max 1 (include "tandem.amount" $limit | float64 | ceil | int) -}}
{{- else -}}
{{- int .threads -}}
{{- end -}}
{{- end -}}
