{{/* Names and labels. Everything of a release begins with the release's name: the orchestrator finds it so. */}}

{{- define "tandem.name" -}}
{{- printf "%s-%s" .root.Release.Name .component -}}
{{- end -}}

{{- define "tandem.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: tandem
{{ include "tandem.selector" . }}
{{- end -}}

{{/* What selectors select by; it can never change. Without a component: all pods of the release. */}}
{{- define "tandem.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "tandem.image" -}}
{{- $image := (index .root.Values .role).image -}}
{{- $name := $image.repository -}}
{{- with .root.Values.image.registry }}{{ $name = printf "%s/%s" . $image.repository }}{{ end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The name of the front door for everything inside the cluster. */}}
{{- define "tandem.door" -}}
{{- printf "%s-orchestrator.%s.svc:7420" .Release.Name .Release.Namespace -}}
{{- end -}}

{{/* A pod's own address, before a port. */}}
{{- define "tandem.ip" -}}
{{- if eq .Values.network.ipFamily "IPv6" -}}[$(POD_IP)]{{- else -}}$(POD_IP){{- end -}}
{{- end -}}

{{- define "tandem.secretName" -}}
{{- default (printf "%s-secret" .Release.Name) .Values.clusterSecret.existingSecret -}}
{{- end -}}

{{/* The Secret with a role's certificate, in both modes of TLS. */}}
{{- define "tandem.tlsSecret" -}}
{{- if eq .root.Values.tls.mode "existingSecret" -}}
{{- index .root.Values.tls.existingSecrets .role -}}
{{- else -}}
{{- printf "%s-%s-tls" .root.Release.Name .role -}}
{{- end -}}
{{- end -}}

{{/* The components whose pods run a role: its own, or pairs. */}}
{{- define "tandem.component" -}}
{{- if eq .root.Values.mode "colocated" -}}pair{{- else -}}{{ .role }}{{- end -}}
{{- end -}}

{{- define "tandem.device" -}}
{{- $role := index .root.Values .role -}}
{{- default (ternary "cuda" "cpu" (or (gt (int $role.gpu.count) 0) (ne $role.gpu.claimTemplate ""))) $role.device -}}
{{- end -}}

{{/* The number that a Kubernetes quantity such as 4Gi, 250m or 1073741824 stands for; 0: none that is known. */}}
{{- define "tandem.amount" -}}
{{- $text := toString . -}}
{{- $units := dict "" 1 "m" 0.001 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- mulf (float64 (trimSuffix $unit $text)) (get $units $unit | default 0) -}}
{{- end -}}

{{/* The same of bytes, whole. */}}
{{- define "tandem.bytes" -}}
{{- include "tandem.amount" . | float64 | floor | int64 -}}
{{- end -}}
