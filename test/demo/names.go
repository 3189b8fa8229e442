// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Where the agents answer for the names of Services.
const (
	namesAt   = "10.96.0.10"
	namesFlag = "--dns=" + namesAt + ",fd00:10:96::a"
)

// podResolvConf is what a kubelet would write into the pods.
const podResolvConf = "nameserver " + namesAt + `
search default.svc.cluster.local svc.cluster.local cluster.local
options ndots:5
`

// getByName has the C library of a pod look the name up, and bash connect to what that finds.
const getByName = `mount --bind "$0" /etc/resolv.conf && exec bash -c '
	exec 3<>"/dev/tcp/$0/80" && printf "GET / HTTP/1.0\r\nHost: %s\r\n\r\n" "$0" >&3 && exec cat <&3' "$1"`

var nameColumns = columns{{"FROM", 7}, {"ASKS FOR", 41}, {"ANSWERED BY", 32}, {"RESULT", 0}}

var byName = part{what: "From a pod, by name", how: "the agent of the pod's node answers DNS queries"}

// checkNames shows and judges that pods find a service by its name.
func (d *demo) checkNames(ctx context.Context) error {
	file := filepath.Join(d.dir, "resolv.conf")
	if err := os.WriteFile(file, []byte(podResolvConf), 0o644); err != nil {
		return err
	}
	d.heading(byName.what, "The pod's C library asks "+namesAt+", a service, too:\nits backend is the agent of the pod's node (--dns).")
	t := &table{columns: nameColumns}
	p := byName
	for _, c := range []struct{ from, name string }{
		{"client", backService}, {"sandbox", backService}, {"client", backService + ".default.svc.cluster.local"},
	} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pods, requests, problem := d.askByName(d.askers[c.from], file, c.name)
		p.checks++
		p.requests += requests
		result := line("ok")
		if problem != "" {
			p.wrong++
			result = wrong([]string{problem})
		}
		t.add(line(c.from), line("http://"+c.name), line(strings.Join(pods, ", ")), result)
	}
	d.write(t)
	d.summary.parts = append(d.summary.parts, p)
	return nil
}

// askByName asks until every pod of the service has answered, and returns those that did.
func (d *demo) askByName(from *asker, resolvConf, name string) (pods []string, requests int, problem string) {
	want := d.podsOf(backService)
	for requests < enough || len(pods) < len(want) && requests < tooMany {
		requests++
		out, err := from.host.Command("unshare", "-m", "sh", "-c", getByName, resolvConf, name).CombinedOutput()
		var answer struct{ Pod string }
		if i := bytes.LastIndex(out, []byte("\n{")); err == nil && i >= 0 {
			err = json.Unmarshal(out[i:], &answer)
		}
		if err != nil || !slices.ContainsFunc(want, func(p *place) bool { return p.Name == answer.Pod }) {
			return pods, requests, fmt.Sprintf("http://%s: answered by %q: %v: %s", name, answer.Pod, err, out)
		}
		if !slices.Contains(pods, answer.Pod) {
			pods = append(pods, answer.Pod)
		}
	}
	slices.Sort(pods)
	if len(pods) < len(want) {
		return pods, requests, "not every pod answered"
	}
	return pods, requests, ""
}
