{{/* What the objects for the Prometheus operator have in common. */}}

{{/* Takes (list $ name labels): the user's labels choose the Prometheus that takes the object up; ours stay ours. */}}
{{- define "daemoneye.monitorMetadata" -}}
{{- $root := index . 0 -}}
name: {{ include "daemoneye.fullname" $root }}-{{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- $labels := include "daemoneye.labels" (list $root (index . 1)) | fromYaml -}}
  {{- toYaml (merge $labels (index . 2 | default dict)) | nindent 2 }}
{{- end -}}

{{/* Takes the values of a monitor. */}}
{{- define "daemoneye.scrape" -}}
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- end -}}
