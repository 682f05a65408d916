{{/* The name of this chart's objects, at most 52 characters: the longest suffix of a name that
     may have 63 is "-operator". */}}
{{- define "datafetch.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of a component: never changes between versions. */}}
{{- define "datafetch.selectorLabelsOf" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "datafetch.labelsOf" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "datafetch.selectorLabelsOf" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{- define "datafetch.selectorLabels" -}}
{{- include "datafetch.selectorLabelsOf" (dict "root" . "component" "operator") -}}
{{- end -}}

{{- define "datafetch.labels" -}}
{{- include "datafetch.labelsOf" (dict "root" . "component" "operator") -}}
{{- end -}}

{{- define "datafetch.webhook.selectorLabels" -}}
{{- include "datafetch.selectorLabelsOf" (dict "root" . "component" "webhook") -}}
{{- end -}}

{{- define "datafetch.webhook.labels" -}}
{{- include "datafetch.labelsOf" (dict "root" . "component" "webhook") -}}
{{- end -}}

{{/* The webhook's Deployment, Service and roles, and the prefix of its Secrets. */}}
{{- define "datafetch.webhook.name" -}}
{{- include "datafetch.fullname" . }}-webhook
{{- end -}}

{{- define "datafetch.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (printf "%s-operator" (include "datafetch.fullname" .)) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Days that the webhook's certificate is valid; it may not outlive the CA that signed it. */}}
{{- define "datafetch.webhook.certificateDays" -}}
{{- with .Values.injection.certificates -}}
{{- if gt (int .days) (int .caDays) -}}
{{- fail (printf "injection.certificates.days is %d; it may be at most caDays, which is %d" (int .days) (int .caDays)) -}}
{{- end -}}
{{- .days -}}
{{- end -}}
{{- end -}}

{{- define "datafetch.webhook.serviceAccountName" -}}
{{- $account := .Values.injection.webhook.serviceAccount -}}
{{- if $account.create -}}
{{- default (include "datafetch.webhook.name" .) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{/* Gates are part of injection: without it nobody adds them. */}}
{{- define "datafetch.gates" -}}
{{- and .Values.injection.enabled .Values.injection.gates.enabled -}}
{{- end -}}

{{/* Whether the operator makes and renews the webhook's certificates: not where cert-manager does. */}}
{{- define "datafetch.keepsCertificates" -}}
{{- and .Values.injection.enabled (not .Values.injection.certManager.enabled) -}}
{{- end -}}

{{/* repository:tag of an image; the tag defaults to the version that the chart was released with. */}}
{{- define "datafetch.image" -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}

{{/* The names of a list of references, comma-separated. */}}
{{- define "datafetch.names" -}}
{{- $names := list -}}
{{- range . -}}{{- $names = append $names .name -}}{{- end -}}
{{- join "," $names -}}
{{- end -}}
