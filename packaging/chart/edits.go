// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// header takes the place of the manifest's own, which is about kubectl.
const header = `# SPDX-License-Identifier: Apache-2.0
#
# Generated from deploy/waggle.yaml by packaging/chart ("make chart"). Do not edit.
`

// edit replaces a passage of the manifest. The passage has to be there exactly so many times: what
// changes in the manifest must not silently lose its value.
type edit struct {
	old   string
	times int
	new   string
}

var edits = []edit{
	{"  namespace: kube-system\n", 3, "  namespace: {{ .Release.Namespace }}\n"},
	{"name: waggle, namespace: kube-system}", 1, "name: waggle, namespace: {{ .Release.Namespace }}}"},

	{`  api-servers: ""` + "\n", 1, `  api-servers: {{ join "," .Values.apiServers | quote }}` + "\n"},
	{"    kind: KubeProxyConfiguration\n", 1, `    kind: KubeProxyConfiguration
    {{- with omit .Values.config "apiVersion" "kind" }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
`},

	{"    rollingUpdate: {maxUnavailable: 10%}\n", 1, "    rollingUpdate: {{ toJson .Values.rollingUpdate }}\n"},
	{"  template:\n    metadata:\n      labels: {app.kubernetes.io/name: waggle}\n", 1, `  template:
    metadata:
      labels:
        {{- with omit .Values.podLabels "app.kubernetes.io/name" }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        app.kubernetes.io/name: waggle
      {{- if or .Values.podAnnotations .Values.restartOnConfigChange }}
      annotations:
        {{- with .Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- if .Values.restartOnConfigChange }}
        waggle/config-checksum: {{ list .Values.apiServers .Values.config | toJson | sha256sum }}
        {{- end }}
      {{- end }}
`},
	{"      priorityClassName: system-node-critical\n", 1, `      priorityClassName: {{ .Values.priorityClassName }}
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets: {{ toJson . }}
      {{- end }}
`},
	{"      nodeSelector: {kubernetes.io/os: linux}\n", 1, `      nodeSelector: {{ toJson .Values.nodeSelector }}
      {{- with .Values.affinity }}
      affinity: {{ toJson . }}
      {{- end }}
`},
	{"      tolerations:\n      - operator: Exists\n", 1, "      tolerations: {{ toJson .Values.tolerations }}\n"},
	{"      hostPID: true\n", 1, "      hostPID: {{ .Values.hostPID }}\n"},
	{"        appArmorProfile: {type: Unconfined}\n", 1, `        {{- with .Values.appArmorProfile }}
        appArmorProfile: {{ toJson . }}
        {{- end }}
`},
	{"        seLinuxOptions: {level: s0, type: spc_t}\n", 1, `        {{- with .Values.seLinuxOptions }}
        seLinuxOptions: {{ toJson . }}
        {{- end }}
`},

	{"        image: waggle:devel\n        imagePullPolicy: IfNotPresent\n", 1, `        image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}"
        imagePullPolicy: {{ .Values.image.pullPolicy }}
`},
	{"127.0.0.1:10246\n", 1, "127.0.0.1:{{ .Values.probePort }}\n"},
	{"containerPort: 10246, hostPort: 10246,", 1, "containerPort: {{ .Values.probePort }}, hostPort: {{ .Values.probePort }},"},
	{"        # - --socket-lb=host\n", 1, `        # - --socket-lb=host
        {{- with .Values.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
`},
	{"key: api-servers}}\n", 1, `key: api-servers}}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
`},
	{`          capabilities:
            drop: [ALL]
            add: [BPF, NET_ADMIN, PERFMON, SYS_ADMIN, SYS_PTRACE]
`, 1, `          {{- if .Values.privileged }}
          privileged: true
          {{- else }}
          capabilities:
            drop: [ALL]
            add: {{ toJson .Values.capabilities }}
          {{- end }}
`},
	{"          requests: {cpu: 100m, memory: 256Mi}\n", 1, "          {{- toYaml .Values.resources | nindent 10 }}\n"},
}

// apply makes the template.
func apply(manifest string) (string, error) {
	_, body, ok := strings.Cut(manifest, "\n---\n")
	if !ok {
		return "", fmt.Errorf("there is no document")
	}
	body = "---\n" + body
	if strings.Contains(body, "{{") {
		return "", fmt.Errorf("%q has a meaning in templates", "{{")
	}
	for _, e := range edits {
		if n := strings.Count(body, e.old); n != e.times {
			return "", fmt.Errorf("the passage %q is there %d times, not %d: adapt packaging/chart/edits.go", e.old, n, e.times)
		}
		body = strings.ReplaceAll(body, e.old, e.new)
	}
	return header + body, nil
}
