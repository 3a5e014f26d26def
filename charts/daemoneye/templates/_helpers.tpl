{{/* Names, labels and images. Objects' names are also known to the operator: operator/src/daemoneye_operator/reconcile/daemonset.py */}}

{{- define "daemoneye.fullname" -}}
{{- $name := .Values.nameOverride | default "daemoneye" -}}
{{- $full := .Values.fullnameOverride -}}
{{- if not $full -}}
{{- $full = ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- end -}}
{{- $full | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Selectors are frozen for ever: those of Deployments, StatefulSets and DaemonSets cannot be changed. Takes (list $ component). */}}
{{- define "daemoneye.selector" -}}
app.kubernetes.io/name: daemoneye
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "daemoneye.labels" -}}
{{ include "daemoneye.selector" . }}
app.kubernetes.io/part-of: daemoneye
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
{{- end -}}

{{/* Takes (list $ component) or (list $ component name): the beginning of an object; its name is the component's if none is given. */}}
{{- define "daemoneye.metadata" -}}
name: {{ include "daemoneye.fullname" (index . 0) }}-{{ last . }}
namespace: {{ (index . 0).Release.Namespace }}
labels:
  {{- include "daemoneye.labels" . | nindent 2 }}
{{- end -}}

{{/* Takes (list $ image): <registry>/<repository>:<tag>. */}}
{{- define "daemoneye.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $tag := $image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end }}{{ $image.repository }}:{{ $tag }}
{{- end -}}

{{- define "daemoneye.natsUrl" -}}
{{- .Values.nats.external.url | default (printf "tls://%s-nats.%s.svc:4222" (include "daemoneye.fullname" .) .Release.Namespace) -}}
{{- end -}}

{{/* Port of the broker, for NetworkPolicies. */}}
{{- define "daemoneye.natsPort" -}}
{{- regexFind ":[0-9]+$" (include "daemoneye.natsUrl" .) | trimPrefix ":" | default "4222" -}}
{{- end -}}

{{/* Secrets that the operator makes, and those that an external broker brings; names only. */}}
{{- define "daemoneye.secrets" -}}
{{- $full := include "daemoneye.fullname" . -}}
{{- $names := list (printf "%s-ca" $full) (printf "%s-nats" $full) -}}
{{- range list "operator" "identity" "analytics" "sensor" "cli" -}}
{{- $names = append $names (printf "%s-broker-%s" $full .) -}}
{{- end -}}
{{- if not .Values.nats.external.url -}}
{{- $names = concat $names (list (printf "%s-broker-callout" $full) (printf "%s-callout" $full)) -}}
{{- end -}}
{{- $names | toJson -}}
{{- end -}}
