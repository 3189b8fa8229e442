// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"k8s.io/kube-proxy/config/v1alpha1"
	kubeproxy "k8s.io/kubernetes/pkg/proxy/apis/config"
)

// meant are the fields that have a meaning here, those that hold only such fields, and those that are
// reported separately.
var meant = []string{
	"apiVersion", "kind", "mode",
	"hostnameOverride",
	"clientConnection.kubeconfig", "clientConnection.qps", "clientConnection.burst",
	"healthzBindAddress", "metricsBindAddress", "bindAddressHardFail", "enableProfiling",
	"nodePortAddresses", "clusterCIDR", "detectLocalMode", "detectLocal",
	"showHiddenMetricsForVersion", "featureGates",
	"logging.verbosity", "logging.format",
	"conntrack", // Settings.Conntrack
}

// ignored lists the fields of a configuration with defaults that differ from the defaults and
// have no meaning here. It compares the JSON of both, so it knows of fields that a later version
// of kube-proxy adds.
func ignored(c *v1alpha1.KubeProxyConfiguration) ([]string, error) {
	defaults := &v1alpha1.KubeProxyConfiguration{}
	defaults.BindAddress = c.BindAddress // the defaults of other fields depend on it
	setDefaults(defaults)
	have, err := fields(c)
	if err != nil {
		return nil, err
	}
	usual, err := fields(defaults)
	if err != nil {
		return nil, err
	}
	var out []string
	for path, value := range have {
		if !hasMeaning(path, c) && !reflect.DeepEqual(value, usual[path]) {
			out = append(out, path)
		}
	}
	// kube-proxy takes a specific address for the node's. The agent takes that of the Node
	// object. Only its family matters here, for the defaults of other addresses.
	if c.BindAddress != "0.0.0.0" && c.BindAddress != "::" {
		out = append(out, "bindAddress")
	}
	slices.Sort(out)
	return out, nil
}

func hasMeaning(path string, c *v1alpha1.KubeProxyConfiguration) bool {
	if block, field, ok := strings.Cut(path, "."); ok {
		switch field {
		case "minSyncPeriod", "syncPeriod":
			return block == periodsBlock(c)
		case "masqueradeAll":
			return block == masqueradeBlock(c)
		}
	}
	return slices.ContainsFunc(meant, func(m string) bool {
		return path == m || strings.HasPrefix(path, m+".")
	})
}

// periodsBlock is the block of the sync periods, masqueradeBlock that of masqueradeAll: ipvs has none of its own.
func periodsBlock(c *v1alpha1.KubeProxyConfiguration) string {
	if kubeproxy.ProxyMode(c.Mode) == kubeproxy.ProxyModeIPVS {
		return "ipvs"
	}
	return masqueradeBlock(c)
}

func masqueradeBlock(c *v1alpha1.KubeProxyConfiguration) string {
	if kubeproxy.ProxyMode(c.Mode) == kubeproxy.ProxyModeNFTables {
		return "nftables"
	}
	return "iptables"
}

// fields returns the values of all fields by path, as in "ipvs.scheduler".
func fields(c *v1alpha1.KubeProxyConfiguration) (map[string]any, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := json.Unmarshal(raw, &tree); err != nil {
		return nil, err
	}
	out := map[string]any{}
	flatten("", tree, out)
	return out, nil
}

func flatten(prefix string, tree, out map[string]any) {
	for name, value := range tree {
		if inner, ok := value.(map[string]any); ok {
			flatten(prefix+name+".", inner, out)
		} else if list, ok := value.([]any); !ok || len(list) > 0 { // an empty list counts as none
			out[prefix+name] = value
		}
	}
}
