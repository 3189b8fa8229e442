// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const deploy = "../../deploy/prometheus/"

// rules are the alerts of a rule file.
type rules struct {
	Groups []struct {
		Rules []struct{ Alert, Expr string }
	}
}

func readRules(t *testing.T) (r rules) {
	t.Helper()
	raw, err := os.ReadFile(deploy + "rules.yaml")
	check(t, err)
	check(t, yaml.Unmarshal(raw, &r))
	if len(r.Groups) == 0 || len(r.Groups[0].Rules) == 0 {
		t.Fatal("there are no rules")
	}
	return r
}

// TestRules runs promtool's tests of the rules, and wants that these have each alert fire, and not fire.
func TestRules(t *testing.T) {
	needs(t, "promtool")
	for _, args := range [][]string{
		{"test", "rules", deploy + "rules_test.yaml"},
		{"check", "config", deploy + "scrape-node.yaml"},
	} {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	var tests struct {
		Tests []struct {
			AlertRuleTest []struct {
				Alertname string
				ExpAlerts []any `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		}
	}
	raw, err := os.ReadFile(deploy + "rules_test.yaml")
	check(t, err)
	check(t, yaml.Unmarshal(raw, &tests))
	fires, rests := map[string]bool{}, map[string]bool{}
	for _, one := range tests.Tests {
		for _, a := range one.AlertRuleTest {
			fires[a.Alertname] = fires[a.Alertname] || len(a.ExpAlerts) > 0
			rests[a.Alertname] = rests[a.Alertname] || len(a.ExpAlerts) == 0
		}
	}
	for _, rule := range readRules(t).Groups[0].Rules {
		if !fires[rule.Alert] || !rests[rule.Alert] {
			t.Errorf("alert %s: a test where it fires: %v, where it does not: %v", rule.Alert, fires[rule.Alert], rests[rule.Alert])
		}
	}
}

// TestScrapeCluster: Debian's Prometheus is built without discovery by Kubernetes, so that it can't check that
// configuration. What it would do with addresses is tried here.
func TestScrapeCluster(t *testing.T) {
	raw, err := os.ReadFile(deploy + "scrape-cluster.yaml")
	check(t, err)
	var config struct {
		ScrapeConfigs []struct {
			JobName        string `json:"job_name"`
			RelabelConfigs []struct {
				SourceLabels       []string `json:"source_labels"`
				Regex, Replacement string
				TargetLabel        string `json:"target_label"`
			} `json:"relabel_configs"`
		} `json:"scrape_configs"`
	}
	check(t, yaml.Unmarshal(raw, &config))
	if len(config.ScrapeConfigs) != 1 || config.ScrapeConfigs[0].JobName != "waggle" {
		t.Fatalf("%+v", config)
	}
	for ip, want := range map[string]string{"192.0.2.1": "192.0.2.1:10249", "2001:db8::1": "[2001:db8::1]:10249"} {
		address := ""
		for _, r := range config.ScrapeConfigs[0].RelabelConfigs {
			if r.TargetLabel != "__address__" {
				continue
			}
			if whole := regexp.MustCompile("^(?:" + r.Regex + ")$"); whole.MatchString(ip) {
				address = whole.ReplaceAllString(ip, r.Replacement)
			}
		}
		if address != want {
			t.Errorf("pod IP %s is scraped at %s, want %s", ip, address, want)
		}
	}
}

// TestServiceMonitor: what it selects is what deploy/waggle.yaml makes.
func TestServiceMonitor(t *testing.T) {
	monitor, err := os.ReadFile(deploy + "servicemonitor.yaml")
	check(t, err)
	pods, err := os.ReadFile("../../deploy/waggle.yaml")
	check(t, err)
	var label string
	for document := range strings.SplitSeq(string(pods), "\n---\n") {
		var set struct {
			Kind string
			Spec struct {
				Template struct {
					Metadata struct{ Labels map[string]string }
				}
			}
		}
		check(t, yaml.Unmarshal([]byte(document), &set))
		if set.Kind == "DaemonSet" {
			label = set.Spec.Template.Metadata.Labels["app.kubernetes.io/name"]
		}
	}
	var kinds []string
	for document := range strings.SplitSeq(string(monitor), "\n---\n") {
		var object struct {
			Kind     string
			Metadata struct {
				Namespace string
				Labels    map[string]string
			}
			Spec struct {
				Selector map[string]any
				Ports    []struct {
					Name string
					Port int
				}
				Endpoints []struct{ Port string }
			}
		}
		check(t, yaml.Unmarshal([]byte(document), &object))
		switch kinds = append(kinds, object.Kind); object.Kind {
		case "Service":
			if s := object.Spec; s.Selector["app.kubernetes.io/name"] != label || object.Metadata.Labels["app.kubernetes.io/name"] != label ||
				len(s.Ports) != 1 || s.Ports[0].Port != 10249 || s.Ports[0].Name != "metrics" || object.Metadata.Namespace != "kube-system" {
				t.Errorf("Service %+v, pods are labelled %s", object, label)
			}
		case "ServiceMonitor":
			if s := object.Spec; len(s.Endpoints) != 1 || s.Endpoints[0].Port != "metrics" ||
				s.Selector["matchLabels"].(map[string]any)["app.kubernetes.io/name"] != label {
				t.Errorf("ServiceMonitor %+v, pods are labelled %s", object, label)
			}
		}
	}
	if strings.TrimSpace(strings.Join(kinds, " ")) != "Service ServiceMonitor" {
		t.Errorf("objects %q", kinds)
	}
}
