{{/* What the pods of this chart have in common: all of them satisfy the Pod Security Standard "restricted". */}}

{{/* Takes (list $ component checksum): labels and annotations of a pod. The chart's labels come last: one of the user's must not take a pod away. */}}
{{- define "daemoneye.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index $root.Values $component -}}
{{- $annotations := merge (dict) ($values.podAnnotations | default dict) -}}
{{- with index . 2 }}{{ $_ := set $annotations "checksum/config" . }}{{ end -}}
labels:
  {{- $labels := include "daemoneye.labels" (list $root $component) | fromYaml -}}
  {{- toYaml (merge $labels ($values.podLabels | default dict)) | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Takes (list $ values): where a pod runs. */}}
{{- define "daemoneye.placement" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Takes (list $ component), one that has replicas: where its pods run, on nodes of their own if there are several and nothing else is asked for. */}}
{{- define "daemoneye.placementApart" -}}
{{- $root := index . 0 -}}
{{- $values := deepCopy (index $root.Values (index . 1)) -}}
{{- if and (gt (int $values.replicas) 1) (not $values.affinity) -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "daemoneye.selector" . | fromYaml)) -}}
{{- $preferred := list (dict "weight" 100 "podAffinityTerm" $term) -}}
{{- $_ := set $values "affinity" (dict "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" $preferred)) -}}
{{- end -}}
{{- include "daemoneye.placement" (list $root $values) -}}
{{- end -}}

{{/* Takes (list $ component), one that has replicas: no more than one of several is taken away at a time. */}}
{{- define "daemoneye.disruptionBudget" -}}
{{- $values := index (index . 0).Values (index . 1) -}}
{{- if gt (int $values.replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "daemoneye.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "daemoneye.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "daemoneye.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "daemoneye.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Liveness asks whether the process goes on, readiness whether it is of use: connected to the broker and, the operator, caches filled. */}}
{{- define "daemoneye.probes" -}}
ports:
  - {name: health, containerPort: 8080, protocol: TCP}
startupProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: health}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 5
{{- end -}}

{{/* The operator image's command. Takes one of run, identity, callout, uninstall, check. */}}
{{- define "daemoneye.operatorCommand" -}}
command: ["/opt/daemoneye/bin/python", "-m", "daemoneye_operator", {{ . | quote }}, "--settings", "/etc/daemoneye/operator.json"]
{{- end -}}

{{- define "daemoneye.hookContainer" -}}
env:
  - name: DAEMONEYE_POD
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
resources:
  requests: {cpu: 20m, memory: 64Mi}
  limits: {cpu: 500m, memory: 256Mi}
securityContext:
  {{- include "daemoneye.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /etc/daemoneye, readOnly: true}
  - {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "daemoneye.hookVolumes" -}}
volumes:
  - name: config
    configMap:
      name: {{ include "daemoneye.fullname" . }}-operator
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
{{- end -}}
