{{/*
What cannot work together, and why. What one value may be by itself the schema says. All problems at once.
*/}}
{{- define "tandem.validate" -}}
{{- $v := .Values -}}
{{- $found := list -}}
{{- if gt (len .Release.Name) 39 -}}
{{- $found = append $found (printf "release name: %q has %d characters; names of pods and their labels leave room for 39" .Release.Name (len .Release.Name)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .Release.Name) -}}
{{- $found = append $found (printf "release name: %q: Services are named after it, so it begins with a letter and has letters, digits and dashes alone" .Release.Name) -}}
{{- end -}}
{{- if and (eq $v.tls.mode "disabled") (not $v.tokens.existingSecret) (not $v.insecure) -}}
{{- $found = append $found "insecure: anyone who reaches the front door could watch and ask: set tls.mode or tokens.existingSecret, or insecure=true if the network may" -}}
{{- end -}}
{{- range $role := list "orchestrator" "encoder" "reasoner" -}}
{{- $own := index $v $role -}}
{{- if and (eq $own.image.tag "latest") (not $own.image.digest) -}}
{{- $found = append $found (printf "%s.image.tag: latest names another image tomorrow, and pods of one role would differ: give a version or a digest" $role) -}}
{{- end -}}
{{- range $kind, $asked := $own.resources.requests -}}
{{- $most := index $own.resources.limits $kind -}}
{{- if and $most (gt (include "tandem.amount" $asked | float64) (include "tandem.amount" $most | float64)) -}}
{{- $found = append $found (printf "%s.resources.requests.%s: %v is more than the limit, %v, and no pod would be made" $role $kind $asked $most) -}}
{{- end -}}
{{- end -}}
{{- range $label, $_ := $own.podLabels -}}
{{- if regexMatch "^(app[.]kubernetes[.]io|helm[.]sh)/" $label -}}
{{- $found = append $found (printf "%s.podLabels: selectors and the orchestrator go by %s, which is the chart's own" $role $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq $v.tls.mode "existingSecret" -}}
{{- range list "orchestrator" "encoder" "reasoner" -}}
{{- if not (index $v.tls.existingSecrets .) -}}
{{- $found = append $found (printf "tls.existingSecrets.%s: tls.mode is existingSecret, and this role has none" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (ne $v.tls.mode "disabled") (not $v.tls.clientCertificates) (not $v.tokens.existingSecret) -}}
{{- $found = append $found "tls.clientCertificates: without certificates clients need tokens: set tokens.existingSecret" -}}
{{- end -}}
{{- if and (eq $v.tls.mode "certManager") (not $v.tls.certManager.issuerRef.name) -}}
{{- $found = append $found "tls.certManager.issuerRef.name: tls.mode is certManager; name the issuer that signs" -}}
{{- end -}}
{{- range $role := list "orchestrator" "encoder" "reasoner" -}}
{{- /* Of a variable that is there twice the API server says only that it is. */}}
{{- $set := list -}}
{{- range (include "tandem.chartEnv" (dict "root" $ "role" $role) | fromYamlArray) }}{{ $set = append $set .name }}{{ end -}}
{{- range (index $v $role).extraEnv -}}
{{- if has .name $set -}}
{{- $found = append $found (printf "%s.extraEnv: %s is set by the chart" $role .name) -}}
{{- end -}}
{{- end -}}
{{- range (index $v $role).extraVolumes -}}
{{- if or (has .name (list "tmp" "shm" "models" "blocks" "journal" "tokens" "quotas" "cluster-secret" "hub-token")) (hasSuffix "-tls" .name) -}}
{{- $found = append $found (printf "%s.extraVolumes: %s is a volume of the chart" $role .name) -}}
{{- end -}}
{{- end -}}
{{- range (index $v $role).extraArgs -}}
{{- $option := trimPrefix "--" (first (splitList "=" .)) -}}
{{- if has $option (list "advertise" "alone" "backend" "data-dir" "drain-s" "drain-seconds" "health" "listen" "metrics" "name" "orchestrator" "pairs" "release" "run-dir" "secret-file") -}}
{{- $found = append $found (printf "%s.extraArgs: --%s: probes, policies, certificates or grace follow from what the chart says there" $role $option) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $policed := and $v.networkPolicy.enabled (not $v.networkPolicy.extraEgress) -}}
{{- range $key, $name := dict "model.name" $v.model.name "model.embedder" $v.model.embedder -}}
{{- $pin := ternary "revision" "embedderRevision" (eq $key "model.name") -}}
{{- /* ORG/NAME of a hub; a path begins with a slash, and random weights with "dummy:". */ -}}
{{- $isHub := and (regexMatch "^[A-Za-z0-9][^:]*/" $name) (eq $v.model.loadFormat "auto") -}}
{{- if and $isHub (not (index $v.model $pin)) -}}
{{- $found = append $found (printf "model.%s: %s, %q, is loaded from a hub, where it may be another one tomorrow, and pods would refuse each other: name the commit, 40 hex digits" $pin $key $name) -}}
{{- end -}}
{{- if and (not $isHub) (index $v.model $pin) -}}
{{- $found = append $found (printf "model.%s: %s, %q, is not loaded from a hub and has no commits" $pin $key $name) -}}
{{- end -}}
{{- if $isHub -}}
{{- if eq $v.model.cache.mode "none" -}}
{{- $found = append $found (printf "model.cache.mode: %s, %q, is loaded from a hub, and with none there is no room for it" $key $name) -}}
{{- end -}}
{{- if and $policed (not $v.model.cache.offline) -}}
{{- $found = append $found (printf "networkPolicy.extraEgress: %s, %q, is loaded from a hub, which the policy keeps pods from: admit it, or set model.cache.offline" $key $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $policed $v.tracing.endpoint -}}
{{- $found = append $found "networkPolicy.extraEgress: tracing.endpoint is set, and the policy keeps pods from it: admit it" -}}
{{- end -}}
{{- if and (eq $v.model.cache.mode "existingClaim") (not $v.model.cache.existingClaim) -}}
{{- $found = append $found "model.cache.existingClaim: model.cache.mode is existingClaim; name the claim" -}}
{{- end -}}
{{- if and $v.model.cache.offline (not (has $v.model.cache.mode (list "existingClaim" "persistent"))) -}}
{{- $found = append $found "model.cache.offline: without a claim in model.cache there is no checkpoint to read" -}}
{{- end -}}
{{- if gt (int $v.network.lanePorts.first) (int $v.network.lanePorts.last) -}}
{{- $found = append $found "network.lanePorts: first is after last" -}}
{{- end -}}
{{- $colocated := eq $v.mode "colocated" -}}
{{- range $role := list "encoder" "reasoner" -}}
{{- $own := index $v $role -}}
{{- $scaling := $own.autoscaling -}}
{{- if and (hasPrefix "cuda" $own.device) (eq (int $own.gpu.count) 0) (not $own.gpu.claimTemplate) -}}
{{- $found = append $found (printf "%s.device: cuda without %s.gpu.count: the pod would see no GPU" $role $role) -}}
{{- end -}}
{{- if and (gt (int $own.gpu.count) 0) $own.gpu.claimTemplate -}}
{{- $found = append $found (printf "%s.gpu.claimTemplate: GPUs are either counted or claimed, and %s.gpu.count is %d" $role $role (int $own.gpu.count)) -}}
{{- end -}}
{{- if and (ne $scaling.mode "none") (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- $found = append $found (printf "%s.autoscaling.minReplicas: %d is more than maxReplicas, %d" $role (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- if eq $scaling.mode "keda" -}}
{{- if not $scaling.keda.prometheus -}}
{{- $found = append $found (printf "%s.autoscaling.keda.prometheus: KEDA needs the address of a Prometheus" $role) -}}
{{- end -}}
{{- end -}}
{{- if and (has $scaling.mode (list "hpa" "keda")) (eq $v.metrics.scrape "none") -}}
{{- $found = append $found (printf "metrics.scrape: %s.autoscaling.mode is %s, which needs metrics" $role $scaling.mode) -}}
{{- end -}}
{{- end -}}
{{- if and (not $colocated) (ne (eq $v.encoder.autoscaling.mode "orchestrator") (eq $v.reasoner.autoscaling.mode "orchestrator")) -}}
{{- $found = append $found "reasoner.autoscaling.mode: the orchestrator scales both roles or neither, and encoder.autoscaling.mode says otherwise" -}}
{{- end -}}
{{- if and $colocated (ne $v.encoder.autoscaling.mode "none") -}}
{{- $found = append $found "encoder.autoscaling.mode: with mode colocated pods have both roles, and reasoner.autoscaling counts" -}}
{{- end -}}
{{- with $v.encoder.resources.limits.memory -}}
{{- $need := add (int64 (dig "decode" "memoryBytes" 1073741824 $v.encoder)) 1073741824 -}}
{{- if lt (int64 (include "tandem.bytes" .)) $need -}}
{{- $found = append $found (printf "encoder.resources.limits.memory: %v is less than encoder.decode.memoryBytes and 1 GiB for model and Python (%d bytes): one stream could have the kernel kill it" . $need) -}}
{{- end -}}
{{- end -}}
{{- $r := $v.reasoner -}}
{{- with $r.resources.limits.memory -}}
{{- $need := add (int64 $r.ramBytes) 1073741824 (ternary 0 (int64 $r.poolBytes) (ne (include "tandem.device" (dict "root" $ "role" "reasoner")) "cpu")) -}}
{{- if lt (int64 (include "tandem.bytes" .)) $need -}}
{{- $found = append $found (printf "reasoner.resources.limits.memory: %v is less than reasoner.ramBytes, the pool and 1 GiB for model and Python (%d bytes): the kernel would kill it" . $need) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $r.retrieval "external") (eq $v.model.embedder "off") -}}
{{- $found = append $found "reasoner.retrieval: external goes by an embedder, and model.embedder is off" -}}
{{- end -}}
{{- if ne $r.disk.mode "none" -}}
{{- if gt (int64 $r.disk.bytes) (int64 (include "tandem.bytes" $r.disk.size)) -}}
{{- $found = append $found (printf "reasoner.disk.bytes: %d do not fit into reasoner.disk.size, %s" (int64 $r.disk.bytes) $r.disk.size) -}}
{{- end -}}
{{- end -}}
{{- if and $v.networkPolicy.enabled (ne $v.metrics.scrape "none") (not $v.networkPolicy.metrics.from) -}}
{{- $found = append $found (printf "networkPolicy.metrics.from: metrics.scrape is %s, and the policy admits nobody who could scrape: say where Prometheus is" $v.metrics.scrape) -}}
{{- end -}}
{{- $outside := or $v.ingress.enabled $v.gateway.enabled (ne $v.orchestrator.service.type "ClusterIP") -}}
{{- if and $outside $v.networkPolicy.enabled (not $v.networkPolicy.frontDoor.from) -}}
{{- $found = append $found "networkPolicy.frontDoor.from: the front door is to be reached from outside, and the policy admits only this namespace: say whom it admits" -}}
{{- end -}}
{{- if $v.ingress.enabled -}}
{{- if not $v.ingress.host -}}
{{- $found = append $found "ingress.host: an Ingress for gRPC needs the name of its host" -}}
{{- end -}}
{{- if not $v.ingress.tlsSecret -}}
{{- $found = append $found "ingress.tlsSecret: controllers speak HTTP/2, and so gRPC, with clients only over TLS" -}}
{{- end -}}
{{- end -}}
{{- if and $v.ingress.enabled (ne $v.tls.mode "disabled") (eq (index $v.ingress.annotations "nginx.ingress.kubernetes.io/backend-protocol" | default "") "GRPC") -}}
{{- $found = append $found "ingress.annotations: backend-protocol GRPC speaks plain text, and the front door serves TLS: use GRPCS, with proxy-ssl-secret where it asks for certificates" -}}
{{- end -}}
{{- if and $v.gateway.enabled (not $v.gateway.parentRefs) -}}
{{- $found = append $found "gateway.parentRefs: name the Gateway that the route joins" -}}
{{- end -}}
{{- if and $v.gateway.enabled (ne $v.tls.mode "disabled") $v.tls.clientCertificates -}}
{{- $found = append $found "gateway.enabled: a GRPCRoute ends TLS at the Gateway, which has no client certificate to show to the front door: set tls.clientCertificates=false (and a BackendTLSPolicy), or use a TLSRoute with passthrough (extraObjects) or a load balancer" -}}
{{- end -}}
{{- if and $colocated (eq $v.metrics.scrape "annotations") -}}
{{- $found = append $found "metrics.scrape: annotations name one port, and with mode colocated a pod has two: use podMonitor or serviceMonitor" -}}
{{- end -}}
{{- if and $v.metrics.rules.enabled (eq $v.metrics.scrape "none") -}}
{{- $found = append $found "metrics.rules.enabled: without metrics.scrape no alert could ever fire" -}}
{{- end -}}
{{- if $found -}}
{{- fail (printf "\nthese values cannot work:\n- %s\n" (join "\n- " $found)) -}}
{{- end -}}
{{- end -}}
