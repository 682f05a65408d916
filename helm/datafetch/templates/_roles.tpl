{{/*
The rights of the operator, by what they are for. No right on Secrets: the kubelet mounts them. No pods/exec, no wildcard.
*/}}

{{/* To carry out DataFetch resources: read them, write their status, and keep the Jobs, ConfigMaps and claims for them. */}}
{{- define "datafetch.rules.reconcile" -}}
- apiGroups: [datafetch.io]
  resources: [datafetches]
  verbs: [get, list, watch]
- apiGroups: [datafetch.io]
  resources: [datafetches/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end -}}

{{/* To say how far a download is: its progress stands in the pod's log. */}}
{{- define "datafetch.rules.logs" -}}
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- end -}}

{{/* A role and its binding: in the given namespace, or for the whole cluster where there is none. */}}
{{- define "datafetch.role" -}}
{{- $name := printf "%s-%s" (include "datafetch.fullname" .root) .name -}}
{{- $kind := ternary "Role" "ClusterRole" (ne .namespace "") -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "datafetch.labels" .root | nindent 4 }}
rules:
{{ .rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "datafetch.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
- kind: ServiceAccount
  name: {{ include "datafetch.serviceAccountName" .root }}
  namespace: {{ .root.Release.Namespace }}
{{- end -}}
