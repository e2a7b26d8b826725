{{/* Parts of pods. */}}

{{/* The restricted Pod Security level, for pods. */}}
{{- define "tandem.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.podSecurity.id }}
runAsGroup: {{ int64 .Values.podSecurity.id }}
fsGroup: {{ int64 .Values.podSecurity.id }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The same for every container. */}}
{{- define "tandem.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Where pods of a role go: root, role (whose values count), component. */}}
{{- define "tandem.scheduling" -}}
{{- $role := index .root.Values .role -}}
{{- with $role.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with $role.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $role.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $role.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $role.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $role.spreadTopologyKey }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ . | quote }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tandem.selector" $ | nindent 8 }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tandem.podMetadata" -}}
{{- $role := index .root.Values .role -}}
labels:
  {{- with $role.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- /* Without the chart's version, which would have every upgrade of the chart restart every pod. */}}
  app.kubernetes.io/part-of: tandem
  {{- include "tandem.selector" . | nindent 2 }}
annotations:
  kubectl.kubernetes.io/default-container: {{ .role }}
  {{- if eq .root.Values.metrics.scrape "annotations" }}
  prometheus.io/scrape: "true"
  prometheus.io/port: "9400"
  {{- end }}
  {{- with $role.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "tandem.env" -}}
{{- include "tandem.chartEnv" . }}
{{- with (index .root.Values .role).extraEnv }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{- define "tandem.chartEnv" -}}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: HOME
  value: /tmp
# Of a user whom the image does not know; libraries name their caches after it.
- name: USER
  value: tandem
{{- with .root.Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- if ne .role "orchestrator" }}
{{- if ne .root.Values.model.cache.mode "none" }}
- name: HF_HOME
  value: /models
{{- end }}
{{- if .root.Values.model.cache.offline }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- if .root.Values.model.hubToken.existingSecret }}
# A file: what is in the environment is in that of the processes that decode foreign video, too.
- name: HF_TOKEN_PATH
  value: /etc/tandem/hub/token
{{- end }}
{{- end }}
{{- end -}}

{{/* Started: has its model. Ready: takes work. Alive: the process answers at all, so that no load has it killed. */}}
{{- define "tandem.probes" -}}
startupProbe:
  grpc:
    port: {{ .health }}
    service: started
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ max 1 (div (int .startupSeconds) 5) }}
readinessProbe:
  grpc:
    port: {{ .health }}
    service: ready
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  grpc:
    port: {{ .health }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{- define "tandem.resources" -}}
{{- $role := index .root.Values .role -}}
{{- $gpus := dict -}}
{{- if and $role.gpu (gt (int $role.gpu.count) 0) -}}
{{- $gpus = dict $role.gpu.resource (int $role.gpu.count) -}}
{{- end -}}
requests:
  {{- toYaml (merge (deepCopy $gpus) $role.resources.requests) | nindent 2 }}
limits:
  {{- toYaml (merge (deepCopy $gpus) $role.resources.limits) | nindent 2 }}
{{- if and $role.gpu $role.gpu.claimTemplate }}
claims:
  - name: {{ .role }}-gpu
{{- end }}
{{- end -}}

{{/* Claims of the roles in a pod. Kubernetes wrote them otherwise before 1.31. */}}
{{- define "tandem.claims" -}}
{{- $claims := list -}}
{{- range .roles -}}
{{- with (index $.root.Values .).gpu.claimTemplate -}}
{{- $claims = append $claims . -}}
{{- end -}}
{{- end -}}
{{- if $claims }}
resourceClaims:
  {{- range .roles }}
  {{- $template := (index $.root.Values .).gpu.claimTemplate }}
  {{- if $template }}
  - name: {{ . }}-gpu
    {{- if semverCompare ">=1.31-0" $.root.Capabilities.KubeVersion.Version }}
    resourceClaimTemplateName: {{ $template | quote }}
    {{- else }}
    source:
      resourceClaimTemplateName: {{ $template | quote }}
    {{- end }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Mounts of every container of a role. */}}
{{- define "tandem.mounts" -}}
- name: tmp
  mountPath: /tmp
- name: cluster-secret
  mountPath: /etc/tandem/secret
  readOnly: true
{{- if ne .root.Values.tls.mode "disabled" }}
- name: {{ .role }}-tls
  mountPath: /etc/tandem/tls
  readOnly: true
{{- end }}
{{- if and (ne .role "orchestrator") (ne .root.Values.model.cache.mode "none") }}
- name: models
  mountPath: /models
  readOnly: {{ .root.Values.model.cache.offline }}
{{- end }}
{{- if and (ne .role "orchestrator") .root.Values.model.hubToken.existingSecret }}
- name: hub-token
  mountPath: /etc/tandem/hub
  readOnly: true
{{- end }}
{{- with (index .root.Values .role).extraVolumeMounts }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{/* Volumes behind them: root, roles (in the pod). */}}
{{- define "tandem.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
- name: cluster-secret
  secret:
    secretName: {{ include "tandem.secretName" .root | quote }}
    defaultMode: 0400
    items:
      - key: {{ ternary .root.Values.clusterSecret.key "secret" (ne .root.Values.clusterSecret.existingSecret "") | quote }}
        path: secret
{{- if ne .root.Values.tls.mode "disabled" }}
{{- range .roles }}
- name: {{ . }}-tls
  secret:
    secretName: {{ include "tandem.tlsSecret" (dict "root" $.root "role" .) | quote }}
    defaultMode: 0400
{{- end }}
{{- end }}
{{- if and (not (has "orchestrator" .roles)) .root.Values.model.hubToken.existingSecret }}
- name: hub-token
  secret:
    secretName: {{ .root.Values.model.hubToken.existingSecret | quote }}
    defaultMode: 0400
    items:
      - key: {{ .root.Values.model.hubToken.key | quote }}
        path: token
{{- end }}
{{- if and (not (has "orchestrator" .roles)) (ne .root.Values.model.cache.mode "none") }}
- name: models
  {{- if eq .root.Values.model.cache.mode "emptyDir" }}
  emptyDir:
    sizeLimit: {{ .root.Values.model.cache.size }}
  {{- else if eq .root.Values.model.cache.mode "persistent" }}
  persistentVolumeClaim:
    claimName: {{ printf "%s-models" .root.Release.Name }}
    readOnly: {{ .root.Values.model.cache.offline }}
  {{- else }}
  persistentVolumeClaim:
    claimName: {{ .root.Values.model.cache.existingClaim | quote }}
    readOnly: {{ .root.Values.model.cache.offline }}
  {{- end }}
{{- end }}
{{- $more := list }}
{{- range .roles }}{{ $more = concat $more (default list (index $.root.Values .).extraVolumes) }}{{ end }}
{{- with uniq $more }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{/*
How many pods of a role there are, unless something else than the chart says so. When a scaler is turned on the number
is still the chart's: left out it would fall to 1, before the scaler has said anything. It stays as it is until
somebody else has set it, as scalers do, through the scale of the workload.
*/}}
{{- define "tandem.replicas" -}}
{{- $role := index .root.Values .role -}}
{{- if eq $role.autoscaling.mode "none" }}
replicas: {{ int $role.replicas }}
{{- else }}
{{- with lookup "apps/v1" "StatefulSet" .root.Release.Namespace (include "tandem.name" .) }}
{{- $scaled := false }}
{{- range .metadata.managedFields }}
{{- if and (eq (default "" .subresource) "scale") (hasKey (dig "fieldsV1" "f:spec" (dict) .) "f:replicas") }}{{ $scaled = true }}{{ end }}
{{- end }}
{{- if not $scaled }}
replicas: {{ int (dig "spec" "replicas" 1 .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
