{{- define "securetrain.labels" -}}
app.kubernetes.io/name: securetrain-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: securetrain
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "securetrain.selector" -}}
app.kubernetes.io/name: securetrain-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "securetrain.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ .Values.serviceAccount.name }}
{{- end }}

{{- define "securetrain.audience" -}}
{{ .Values.audience | default (printf "%s/%s/securetrain" .Values.clusterName .Release.Namespace) }}
{{- end }}

{{- define "securetrain.gatewayHost" -}}
securetrain-gateway.{{ .Release.Namespace }}.svc
{{- end }}

{{- /* One projected token serves all connections, so they share its audience. */ -}}
{{- define "securetrain.vaultAudience" -}}
{{- $audiences := list }}
{{- range .Values.vault.connections }}{{ $audiences = append $audiences (.audience | default "vault") }}{{ end }}
{{- if gt (len (uniq $audiences)) 1 }}
{{- fail "vault.connections: audience must be the same for all connections; set one value everywhere" }}
{{- end }}
{{- first $audiences }}
{{- end }}

{{- /* The operator's settings file, by the names of securetrain_operator.settings.Settings. */ -}}
{{- define "securetrain.settings" -}}
{{- $settings := dict
  "namespace" .Release.Namespace
  "audience" (include "securetrain.audience" .)
  "trainerImage" .Values.image.trainer
  "gatewayUrl" (printf "https://%s" (include "securetrain.gatewayHost" .))
  "gatewayPort" 8443
  "gatewayNames" (list (include "securetrain.gatewayHost" .))
  "gatewayEgress" (include "securetrain.selector" . | fromYaml)
  "watchNamespaces" .Values.watchNamespaces
  "namespaces" .Values.namespaces
  "vaultConnections" .Values.vault.connections
  "storageConnections" .Values.storage.connections
-}}
{{- if .Values.audit.claim }}{{ $_ := set $settings "auditFile" "/var/log/securetrain/audit.jsonl" }}{{ end }}
{{- merge $settings .Values.settings | toYaml }}
{{- end }}

{{- /* A CEL list of strings. */ -}}
{{- define "securetrain.celList" -}}
[{{ range $index, $user := uniq . }}{{ if $index }}, {{ end }}'{{ $user }}'{{ end }}]
{{- end }}

{{- /* CEL: does the pod spec, given as an expression, ask for a token with our audience? */ -}}
{{- define "securetrain.asksForAudience" -}}
{{ .spec }}.?volumes.orValue([]).exists(v, v.?projected.?sources.orValue([]).exists(s, s.?serviceAccountToken.?audience.orValue('') == '{{ .audience }}'))
{{- end }}

{{- /* A guard's binding. Takes root, name and, for a guard of the whole cluster, everywhere. */ -}}
{{- define "securetrain.binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "securetrain.labels" .root | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
  {{- if not .everywhere }}
  matchResources:
    namespaceSelector:
      matchLabels:
        securetrain.dev/jobs: enabled
  {{- end }}
{{- end }}
