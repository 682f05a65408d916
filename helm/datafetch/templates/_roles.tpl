{{/*
The rights of the operator and the webhook, by what they are for. No right on users' Secrets: the kubelet mounts them. No
pods/exec, no wildcard.
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
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end -}}

{{/*
To be the one replica that reconciles: exactly one Lease of the operator's own namespace, by name. Only `create` cannot be
bound to a name.
*/}}
{{- define "datafetch.rules.hold-lease" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "datafetch.fullname" . }}-operator]
  verbs: [get, update]
{{- end -}}

{{/* To say how far a download is: its progress stands in the pod's log. */}}
{{- define "datafetch.rules.read-logs" -}}
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- end -}}

{{/*
To take the scheduling gate off pods whose data is there. RBAC knows no smaller right than to patch pods: so it is a role of
its own, which exists only where gates are on.
*/}}
{{- define "datafetch.rules.remove-gates" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, patch]
{{- end -}}

{{/* To answer the API server about a pod: what its fetches and claims are. It writes nothing and sees no Secret. */}}
{{- define "datafetch.rules.webhook" -}}
- apiGroups: [datafetch.io]
  resources: [datafetches]
  verbs: [get, list]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
{{- end -}}

{{/*
To keep the webhook's certificates, in the operator's own namespace: exactly two Secrets, by name. Only `create` cannot be
bound to a name, and it reads nothing. No list and no watch: either would read every Secret of the namespace.
*/}}
{{- define "datafetch.rules.keep-certificates" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "datafetch.webhook.name" . }}-ca, {{ include "datafetch.webhook.name" . }}-tls]
  verbs: [get, update]
{{- end -}}

{{/* To keep the CA bundle: exactly this release's configuration, by name. It belongs to no namespace. */}}
{{- define "datafetch.rules.keep-bundle" -}}
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [{{ include "datafetch.webhook.name" . }}]
  verbs: [get, patch]
{{- end -}}

{{/*
The role `name`, with the rules of that name, and its binding to the account of a component: in the given namespace, or for
the whole cluster where there is none.
*/}}
{{- define "datafetch.role" -}}
{{- $name := printf "%s-%s" (include "datafetch.fullname" .root) .name -}}
{{- $account := ternary "datafetch.webhook.serviceAccountName" "datafetch.serviceAccountName" (eq .component "webhook") -}}
{{- $kind := ternary "Role" "ClusterRole" (ne .namespace "") -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "datafetch.labelsOf" (dict "root" .root "component" .component) | nindent 4 }}
rules:
{{ include (printf "datafetch.rules.%s" .name) .root }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "datafetch.labelsOf" (dict "root" .root "component" .component) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
- kind: ServiceAccount
  name: {{ include $account .root }}
  namespace: {{ .root.Release.Namespace }}
{{- end -}}
