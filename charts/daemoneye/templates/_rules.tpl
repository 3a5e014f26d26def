{{/* Rules over several values, which a schema cannot say. The operator checks them again (daemoneye_operator.settings). */}}

{{/* Bytes of a size such as 10Gi. */}}
{{- define "daemoneye.bytes" -}}
{{- $unit := regexFind "[A-Z]i$" . -}}
{{- $factor := get (dict "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776) $unit -}}
{{- mul (trimSuffix $unit . | int64) $factor -}}
{{- end -}}

{{- define "daemoneye.rules" -}}
{{- if contains "." .Release.Name -}}
{{- fail (printf "the release's name is %q: write one without dots, its Services are named after it" .Release.Name) -}}
{{- end -}}
{{- if gt (int .Values.analytics.parts) (int .Values.analytics.replicas) -}}
{{- fail (printf "analytics.parts is %d: write at most analytics.replicas, which is %d, for each part is judged by one of the pods" (int .Values.analytics.parts) (int .Values.analytics.replicas)) -}}
{{- end -}}
{{- $nats := .Values.nats -}}
{{- with $nats.issuerRef -}}
{{- if $nats.external.url -}}
{{- fail "nats.issuerRef is set and nats.external.url, too: a broker of your own has a certificate of your own, leave nats.issuerRef out" -}}
{{- end -}}
{{- if not .name -}}
{{- fail "nats.issuerRef has no name: write that of an Issuer of the release's namespace, or of a ClusterIssuer with kind: ClusterIssuer" -}}
{{- end -}}
{{- $known := $.Capabilities.APIVersions -}}
{{- if not (or ($known.Has "cert-manager.io/v1/Certificate") ($known.Has "cert-manager.io/v1")) -}}
{{- fail "nats.issuerRef is set, but this cluster has no cert-manager.io/v1 Certificate: install cert-manager first (a tool that renders without a cluster needs --api-versions cert-manager.io/v1)" -}}
{{- end -}}
{{- end -}}
{{- if $nats.external.url -}}
{{- if not (dig "credentialsSecretRef" "name" "" $nats.external) -}}
{{- fail "nats.external.credentialsSecretRef.name is missing: a broker of your own needs a user for each role, name the Secret that holds them" -}}
{{- end -}}
{{- else -}}
{{- range list "tlsSecretRef" "credentialsSecretRef" -}}
{{- if dig . "name" "" $nats.external -}}
{{- fail (printf "nats.external.%s is set but nats.external.url is not: write the address of your broker, or leave both out" .) -}}
{{- end -}}
{{- end -}}
{{- if gt (int $.Values.streams.replicas) (int $nats.replicas) -}}
{{- fail (printf "streams.replicas is %d: write at most nats.replicas, which is %d" (int $.Values.streams.replicas) (int $nats.replicas)) -}}
{{- end -}}
{{- $store := int64 $nats.storeMaxBytes -}}
{{- $parts := int64 .Values.analytics.parts -}}
{{- $reserved := add (mul (int64 .Values.streams.shards) (int64 .Values.streams.eventsMaxBytes)) (mul (ternary $parts 0 (gt $parts 1)) 128 1048576) (int64 .Values.streams.findingsMaxBytes) (ternary (int64 .Values.evidence.maxBytes) 0 .Values.evidence.enabled) (mul 600 1048576) -}}
{{- if lt $store $reserved -}}
{{- fail (printf "nats.storeMaxBytes is %d: write at least %d, which the streams reserve (streams.eventsMaxBytes for each of streams.shards, streams.findingsMaxBytes, evidence.maxBytes where that is enabled, and 600 MiB, with several analytics.parts 128 MiB more for each), or lower those" $store $reserved) -}}
{{- end -}}
{{- if $nats.storage.enabled -}}
{{- $size := include "daemoneye.bytes" $nats.storage.size | int64 -}}
{{- if lt $size $store -}}
{{- fail (printf "nats.storage.size is %s: write one of at least nats.storeMaxBytes, which is %d bytes" $nats.storage.size $store) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
