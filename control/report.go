// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/control/pulse"
	"github.com/waggle-lb/waggle/control/serve"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/maps"
)

// The agent writes the status when it has changed, at most once a second. Sources don't report when their
// problems change, so it also looks at each pulse: a user that corrects a file wants to see the
// result at once. The file's time shows that the agent is alive.
const (
	statusEvery  = 5 // pulses
	statusPause  = time.Second
	statusSettle = 100 * time.Millisecond
)

func (a *Agent) poke() {
	select {
	case a.poked <- struct{}{}:
	default:
	}
}

func (a *Agent) reportStatus(ctx context.Context) {
	look := time.NewTimer(pulse.Next())
	defer look.Stop()
	looks := 0 // since the status was written
	first := a.firstSync
	var pause time.Duration
	var wrote time.Time
	reported := &status.Status{}
	for {
		settle := time.Duration(0)
		select {
		case <-ctx.Done():
			return
		case <-first:
		case <-a.poked:
			settle = statusSettle
		case <-look.C:
			look.Reset(pulse.Next())
			looks++
			if looks < statusEvery && slices.Equal(a.problems(), reported.Problems) && a.blindness().Equal(reported.Blind) {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-first: // which people, and other programs, wait for
			first = nil
		case <-time.After(max(settle, time.Until(wrote.Add(pause)))):
		}
		select {
		case <-a.poked: // what it reports is in what is written now
		default:
		}
		reported, wrote, looks = a.writeStatus(), time.Now(), 0
		if !reported.Proxy.LastSync.IsZero() {
			pause = statusPause
		}
	}
}

// problems are those of the source, and addresses that other hosts have.
func (a *Agent) problems() []status.Problem {
	return slices.Concat(a.src.Problems(), a.announcing.problems())
}

// blindness returns since when the source does not see changes, and nil if it does.
func (a *Agent) blindness() *status.Blindness {
	w, ok := a.src.(source.Watcher)
	if !ok {
		return nil
	}
	since, why := w.Blind()
	if since.IsZero() {
		return nil
	}
	return &status.Blindness{Since: since, Why: why}
}

// sourceName returns the name of the source and its place, for messages.
func (a *Agent) sourceName() string {
	if l, ok := a.src.(source.Located); ok {
		return a.cfg.SourceName + "; " + l.Location()
	}
	return a.cfg.SourceName
}

func (a *Agent) writeStatus() *status.Status {
	s := &status.Status{
		PID:      os.Getpid(),
		Version:  a.cfg.Version,
		Node:     a.cfg.NodeName,
		PinDir:   a.cfg.Loader.PinDir,
		Source:   a.sourceName(),
		Blind:    a.blindness(),
		Started:  a.started,
		Proxy:    a.proxy.Status(),
		Devices:  a.devices.Status(),
		Flows:    a.expirer.Census(),
		Problems: a.problems(),
		Held:     source.Held(a.src),
		Names:    a.namesStatus(),
	}
	s.Addresses, s.Pools = source.Addresses(a.src)
	a.announcing.show(s)
	if !a.links.Known() {
		a.warn("links", a.links.Look())
	}
	s.Links = a.links.All()
	a.warnOfExhaustion()
	s.Warnings = append(a.warnings.all(), a.devices.Problems()...)
	s.Notices = slices.Concat(a.notices.all(), a.devices.Notices(), source.Notices(a.src))
	slices.Sort(s.Warnings)
	if err := a.status.Write(s); err != nil {
		a.log.WithError(err).Warn("writing the status file")
	}
	return s
}

// warnOfExhaustion warns of resources that have run out lately.
func (a *Agent) warnOfExhaustion() {
	counters, err := maps.ReadCounters(a.dp)
	if err != nil {
		a.warn("counters", err)
		return
	}
	for _, trouble := range a.exhaustion.Look(counters, time.Now()) {
		a.warn(trouble.About, trouble.Err)
	}
}

// facts returns what the HTTP servers show of the agent.
func (a *Agent) facts() serve.Facts {
	return serve.Facts{
		Version: a.cfg.Version, Node: a.cfg.NodeName, Maps: a.dp, Source: a.src,
		Names: a.namesStatus, Proxy: a.proxy.Status, Size: a.proxy.size, Devices: a.devices.Status, Flows: a.expirer.Census, Repairs: a.repaired,
		Announced: a.announcing.counts,
		Findings: func() map[string]map[string]int {
			return map[string]map[string]int{"warning": a.warnings.counts(), "notice": a.notices.counts()}
		},
	}
}
