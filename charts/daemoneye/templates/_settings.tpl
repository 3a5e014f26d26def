{{/* The files that the processes read. */}}

{{/* operator.json: daemoneye_operator.settings.OperatorSettings. */}}
{{- define "daemoneye.operatorSettings" -}}
{{- $external := .Values.nats.external -}}
{{- $nats := dict "url" (include "daemoneye.natsUrl" .) "external" (not (empty $external.url)) -}}
{{- $_ := set $nats "replicas" .Values.nats.replicas -}}
{{- $_ := set $nats "storeMaxBytes" .Values.nats.storeMaxBytes -}}
{{- range list "tlsSecretRef" "credentialsSecretRef" -}}
{{- $name := dig . "name" "" $external -}}
{{- if $name }}{{ $_ := set $nats . (dict "name" $name) }}{{ end -}}
{{- end -}}
{{- if .Values.nats.issuerRef }}{{ $_ := set $nats "certificateSecretRef" (dict "name" (printf "%s-nats-tls" (include "daemoneye.fullname" .))) }}{{ end -}}
{{- $sensor := omit .Values.sensor "image" -}}
{{- $_ := set $sensor "image" (include "daemoneye.image" (list . .Values.sensor.image)) -}}
{{- $_ := set $sensor "imagePullPolicy" .Values.image.pullPolicy -}}
{{- $_ := set $sensor "imagePullSecrets" (.Values.image.pullSecrets | default list) -}}
{{- $settings := dict
  "release" .Release.Name
  "namespace" .Release.Namespace
  "fullname" (include "daemoneye.fullname" .)
  "version" .Chart.AppVersion
  "clusterName" .Values.clusterName
  "nats" $nats
  "analyticsParts" .Values.analytics.parts
  "streams" .Values.streams
  "sensor" $sensor
  "findings" .Values.findings
  "evidence" .Values.evidence
  "resyncSeconds" .Values.operator.resyncSeconds
  "healthPort" 8080
  "logLevel" .Values.operator.logLevel
-}}
{{- toPrettyJson $settings -}}
{{- end -}}

{{/* analytics.json. */}}
{{- define "daemoneye.analyticsSettings" -}}
{{- $broker := "/etc/daemoneye/broker" -}}
{{- $url := include "daemoneye.natsUrl" . -}}
{{- $nats := dict
  "url" $url
  "user_file" (printf "%s/user" $broker)
  "password_file" (printf "%s/password" $broker)
  "inbox_prefix_file" (printf "%s/inbox_prefix" $broker)
-}}
{{- /* Without one, the system's authorities. */ -}}
{{- if or (not .Values.nats.external.url) (dig "tlsSecretRef" "name" "" .Values.nats.external) -}}
{{- $_ := set $nats "tls" (dict "ca" (printf "%s/ca.crt" $broker)) -}}
{{- end -}}
{{- /* Not less often than others expect it who do not know the sensors' interval. */ -}}
{{- $interval := min 10 (int .Values.sensor.statusIntervalSeconds) -}}
{{- $settings := dict "nats" $nats "shards" .Values.streams.shards "parts" .Values.analytics.parts "configuration" "broker" "status_interval_s" $interval "health_port" 8080 -}}
{{- if .Values.evidence.enabled -}}
{{- /* On the pod's loopback: reached by port-forward alone. */ -}}
{{- $_ := set $settings "evidence" (dict "namespace" .Release.Namespace "port" 8081) -}}
{{- end -}}
{{- toPrettyJson $settings -}}
{{- end -}}
