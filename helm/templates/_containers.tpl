{{/* The containers of encoder and reasoner: alone in a pod, or together. root, component, health, metrics. */}}

{{- define "tandem.encoderContainer" -}}
{{- $it := merge (dict "role" "encoder") . -}}
- name: encoder
  image: {{ include "tandem.image" $it }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [tandem]
  args:
    {{- include "tandem.encoderArgs" $it | nindent 4 }}
  env:
    {{- include "tandem.env" $it | nindent 4 }}
  ports:
    - {name: encoder, containerPort: 7431}
    - {name: health-encoder, containerPort: {{ .health }}}
    {{- if ne .root.Values.metrics.scrape "none" }}
    - {name: metrics-encoder, containerPort: {{ .metrics }}}
    {{- end }}
  {{- include "tandem.probes" (dict "health" .health "startupSeconds" .root.Values.encoder.startupSeconds) | nindent 2 }}
  resources:
    {{- include "tandem.resources" $it | nindent 4 }}
  securityContext:
    {{- include "tandem.containerSecurity" . | nindent 4 }}
  volumeMounts:
    {{- include "tandem.mounts" $it | nindent 4 }}
    {{- include "tandem.shmMount" . | nindent 4 }}
{{- end -}}

{{- define "tandem.reasonerContainer" -}}
{{- $it := merge (dict "role" "reasoner") . -}}
- name: reasoner
  image: {{ include "tandem.image" $it }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [tandem]
  args:
    {{- include "tandem.reasonerArgs" $it | nindent 4 }}
  env:
    {{- include "tandem.env" $it | nindent 4 }}
  ports:
    - {name: reasoner, containerPort: 7432}
    - {name: health-reasoner, containerPort: {{ .health }}}
    {{- if ne .root.Values.metrics.scrape "none" }}
    - {name: metrics-reason, containerPort: {{ .metrics }}}
    {{- end }}
  {{- include "tandem.probes" (dict "health" .health "startupSeconds" .root.Values.reasoner.startupSeconds) | nindent 2 }}
  resources:
    {{- include "tandem.resources" $it | nindent 4 }}
  securityContext:
    {{- include "tandem.containerSecurity" . | nindent 4 }}
  volumeMounts:
    {{- include "tandem.mounts" $it | nindent 4 }}
    {{- include "tandem.shmMount" . | nindent 4 }}
    {{- if ne .root.Values.reasoner.disk.mode "none" }}
    - name: blocks
      mountPath: /var/lib/tandem/blocks
    {{- end }}
{{- end -}}

{{/* Both containers of a pair see one; torch wants one too. */}}
{{- define "tandem.shmMount" -}}
- name: shm
  mountPath: /dev/shm
{{- end -}}

{{/* A workload of services: root, component, role (whose values count), roles (of its containers). */}}
{{- define "tandem.serviceSet" -}}
{{- $v := .root.Values -}}
{{- $drains := list -}}
{{- range .roles }}{{ $drains = append $drains (int (index $v .).drainSeconds) }}{{ end -}}
{{- $disk := and (has "reasoner" .roles) (eq $v.reasoner.disk.mode "persistent") -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "tandem.name" . }}
  labels:
    {{- include "tandem.labels" . | nindent 4 }}
spec:
  serviceName: {{ include "tandem.name" . }}
  {{- include "tandem.replicas" . | nindent 2 }}
  # Services do not know each other's numbers.
  podManagementPolicy: Parallel
  selector:
    matchLabels:
      {{- include "tandem.selector" . | nindent 6 }}
  {{- if $disk }}
  persistentVolumeClaimRetentionPolicy:
    whenScaled: {{ $v.reasoner.disk.whenScaled }}
    whenDeleted: {{ $v.reasoner.disk.whenDeleted }}
  {{- end }}
  template:
    metadata:
      {{- include "tandem.podMetadata" . | nindent 6 }}
    spec:
      serviceAccountName: {{ include "tandem.name" . }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      # SIGTERM has a service's streams move to others for its drain time; then it needs a moment to end.
      terminationGracePeriodSeconds: {{ add (max (first $drains) (last $drains)) 20 }}
      securityContext:
        {{- include "tandem.podSecurity" .root | nindent 8 }}
      {{- include "tandem.scheduling" . | nindent 6 }}
      {{- include "tandem.claims" (dict "root" .root "roles" .roles) | nindent 6 }}
      containers:
        {{- if has "encoder" .roles }}
        {{- include "tandem.encoderContainer" (dict "root" .root "component" .component "health" 7440 "metrics" 9400) | nindent 8 }}
        {{- end }}
        {{- if has "reasoner" .roles }}
        {{- $second := has "encoder" .roles }}
        {{- include "tandem.reasonerContainer" (dict "root" .root "component" .component "health" (ternary 7441 7440 $second) "metrics" (ternary 9401 9400 $second)) | nindent 8 }}
        {{- end }}
      volumes:
        {{- include "tandem.volumes" (dict "root" .root "roles" .roles) | nindent 8 }}
        - name: shm
          emptyDir:
            medium: Memory
            sizeLimit: {{ ternary $v.colocated.shmSize "64Mi" (eq $v.mode "colocated") }}
        {{- if and (has "reasoner" .roles) (eq $v.reasoner.disk.mode "emptyDir") }}
        - name: blocks
          emptyDir:
            sizeLimit: {{ $v.reasoner.disk.size }}
        {{- end }}
  {{- if $disk }}
  volumeClaimTemplates:
    - apiVersion: v1
      kind: PersistentVolumeClaim
      metadata:
        name: blocks
        labels:
          {{- include "tandem.selector" . | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $v.reasoner.disk.storageClass }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources:
          requests:
            storage: {{ $v.reasoner.disk.size }}
  {{- end }}
{{- end -}}
