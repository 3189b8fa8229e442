// SPDX-License-Identifier: Apache-2.0

package netfilter

// Fate is what happens to a packet at a hook.
type Fate int

// What can happen to a packet.
const (
	Passes  Fate = iota // in every case
	MayDrop             // it depends on what can't be known beforehand
	Drops               // in every case
)

// outcomes are the possible ends of a packet in a chain.
type outcomes uint8

const (
	accepted outcomes = 1 << iota
	dropped
	fellThrough // back to the calling chain
)

// Judge returns the fate of a packet at the hook that calls the chain.
func (c *Chain) Judge(p Packet) (Fate, error) {
	if !c.concerns(&p) {
		return Passes, nil
	}
	ends, err := c.ends(&p, 0)
	if err != nil {
		return Passes, err
	}
	if ends&fellThrough != 0 && c.Drops {
		ends |= dropped
	} else if ends&fellThrough != 0 {
		ends |= accepted
	}
	switch {
	case ends&dropped == 0:
		return Passes, nil
	case ends&accepted == 0:
		return Drops, nil
	}
	return MayDrop, nil
}

// maxDepth is the kernel's limit of nested jumps.
const maxDepth = 16

// ends returns the possible ends of a packet that enters a chain.
func (c *Chain) ends(p *Packet, depth int) (outcomes, error) {
	rules, err := c.rules()
	if err != nil || depth > maxDepth {
		return accepted | dropped | fellThrough, err
	}
	var all outcomes
	for _, r := range rules {
		applies, does := r(p)
		if applies == no {
			continue
		}
		ends, goesOn, err := c.after(does, p, depth)
		if err != nil {
			return all, err
		}
		all |= ends
		if applies == yes && !goesOn {
			return all, nil
		}
	}
	return all | fellThrough, nil
}

// after returns the outcomes of a rule that applies. goesOn reports whether the next rule may
// follow. Several actions are a mark before a verdict, or the elements of a map; in the latter case
// the rule may not apply.
func (c *Chain) after(does []action, p *Packet, depth int) (all outcomes, goesOn bool, err error) {
	goesOn = true
	for _, a := range does {
		goesOn = a.kind == next || a.kind == mark
		switch a.kind {
		case accept:
			all |= accepted
		case drop:
			all |= dropped
		case askFor:
			all |= accepted | dropped
		case back:
			all |= fellThrough
		case jumpTo, goTo:
			ends := fellThrough
			if target := c.table.chains[a.chain]; target != nil {
				if ends, err = target.ends(p, depth+1); err != nil {
					return all, false, err
				}
			}
			if a.kind == jumpTo {
				goesOn = ends&fellThrough != 0
				ends &^= fellThrough
			}
			all |= ends
		}
	}
	return all, goesOn, nil
}

// At lists the chains that a hook calls.
func (r *Rules) At(hook Hook) []*Chain {
	var out []*Chain
	for _, c := range r.base {
		if c.Hook == hook {
			out = append(out, c)
		}
	}
	return out
}
