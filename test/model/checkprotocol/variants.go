// SPDX-License-Identifier: Apache-2.0

package main

import "cmp"

// variant is a model with some macros.
type variant struct {
	name     string
	of       string // the model; empty: that of the flow table
	with     string
	caughtBy string // the invariant that a broken variant violates
	large    bool
}

func (v variant) model() string { return cmp.Or(v.of, "flowtable") }

// The macros that several variants share.
const (
	two      = "CLAIM CPUS=2 "
	three    = "CLAIM CPUS=3 "
	confirm  = "FLOW ESTABLISHED FULL CONFIRMERS=1 OPENERS=1 STRANGERS=2 "
	crowded  = "FLOW ESTABLISHED FULL NW=3 CONFIRMERS=1 OPENERS=1 STRANGERS=2 "
	repair   = "FLOW ESTABLISHED FULL NW=3 CONFIRMERS=1 PACKETS=1 STRANGERS=2 "
	expire   = "FLOW OLD WALKERS CONFIRMERS=1 STRANGERS=2 "
	openBoth = "FLOW NEW OPENERS=2 "
	openSeen = "FLOW NEW OPENERS=2 CONFIRMERS=1 "

	announce   = "announce"
	oneAnswers = "one_node_answers"

	direct    = "direct"
	toldApart = "endpoint_tells_them_apart"
)

// The largest come first, so that all CPUs are busy until the end.
var variants = []variant{
	{name: "claim, two sets of two", with: three + "NW=4 SET0=2 BESIDE_STRANGER", large: true},
	{name: "open, three CPUs", with: "FLOW NEW OPENERS=3 NW=5", large: true},
	{name: "confirm, two CPUs", with: "FLOW ESTABLISHED FULL CONFIRMERS=2 OPENERS=1 STRANGERS=1", large: true},
	{name: "claim", with: three},
	{name: "open, evicted", with: openBoth + "NW=5 STRANGERS=1"},
	{name: "claim, weak order", with: two + "WEAK READER"},
	{name: "confirm, packets", with: "FLOW ESTABLISHED FULL CONFIRMERS=1 PACKETS=1 OPENERS=1 STRANGERS=1"},
	{name: "take", with: three + "TAKE"},
	{name: "take, two CPUs", with: two + "TAKE"},
	{name: "claim, evicted", with: two + "EVICTIONS=2 BESIDE_STRANGER"},
	{name: "claim, reader", with: two + "READER BESIDE_STRANGER"},
	{name: "read", with: "READ"},
	{name: "read, plain publication", with: "READ PLAIN_PUBLISH"},
	{name: "read, weak order", with: "READ WEAK"},
	{name: "open", with: openBoth},
	{name: "open, confirmed", with: openSeen},
	{name: "confirm", with: confirm},
	{name: "confirm, crowded", with: crowded},
	{name: "repair", with: repair},
	{name: "expire", with: expire},

	{name: "announce, restart and death", of: announce, with: "HELD CLAIMS=1 RESTARTS=1 KILLS=1"},
	{name: "announce, stop and death", of: announce, with: "HELD STOPS=1 KILLS=1"},
	{name: "announce, two deaths", of: announce, with: "KILLS=2"},
	{name: "announce, restart", of: announce, with: "HELD RESTARTS=1"},
	{name: "announce, three nodes", of: announce, with: "N=3 CLAIMS=1 KILLS=1", large: true},
	{name: "announce, stop and restart", of: announce, with: "HELD CLAIMS=1 STOPS=1 RESTARTS=1", large: true},

	{name: "announce: the dead are not mourned", of: announce, with: "HELD KILLS=1 BROKEN_MOURN", caughtBy: oneAnswers},
	{name: "announce: agrees and keeps its claim", of: announce, with: "BROKEN_KEEPS_CLAIM", caughtBy: oneAnswers},
	{name: "announce: agrees before it stops", of: announce, with: "HELD BROKEN_RELEASE_LATE", caughtBy: oneAnswers},
	{name: "announce: goes on though it is late", of: announce, with: "HELD STOPS=1 BROKEN_NOT_LATE", caughtBy: oneAnswers},
	{name: "announce: agreement to an old claim", of: announce, with: "BROKEN_NUMBER", caughtBy: oneAnswers},
	{name: "announce: restarts before all know", of: announce, with: "HELD RESTARTS=1 BROKEN_NOT_NOTED", caughtBy: oneAnswers},
	{name: "announce: does not ask the network", of: announce, with: "HELD STOPS=1 RESTARTS=1 BROKEN_NO_PROBE", caughtBy: oneAnswers},

	{name: "direct datagrams", of: direct},
	{name: "direct: weak order: no barrier after a note that is there", of: direct, with: "BROKEN_WEAK_READER", caughtBy: toldApart},
	{name: "direct: looks before it notes", of: direct, with: "BROKEN_LOOKS_FIRST", caughtBy: toldApart},
	{name: "direct: notes by a store", of: direct, with: "BROKEN_NOTE_BY_STORE", caughtBy: toldApart},
	{name: "direct: the flow looks once", of: direct, with: "BROKEN_LOOKS_ONCE", caughtBy: toldApart},
	{name: "direct: says that there are flows after the claim", of: direct, with: "BROKEN_FLAG_LATE", caughtBy: toldApart},

	{name: "help by one CAS", with: three + "BROKEN_HELP", caughtBy: "one_owner_per_tuple"},
	{name: "help after the same look", with: three + "BROKEN_HALF_HELP", caughtBy: "one_owner_per_tuple"},
	{name: "no barrier before the look", with: two + "BROKEN_BARRIER", caughtBy: "one_owner_per_tuple"},
	{name: "OFFERED twins ignored", with: two + "BROKEN_OFFERED_IGNORED", caughtBy: "one_owner_per_tuple"},
	{name: "no look for twins", with: two + "BROKEN_NO_LOOK", caughtBy: "one_owner_per_tuple"},
	{name: "settle ends without a winner", with: three + "BROKEN_ENDS_EARLY", caughtBy: "loser_finds_winner"},
	{name: "spilled counted after the offer", with: two + "BROKEN_SPILLED_LATE", caughtBy: "spilled_counts_all"},
	{name: "spilled uncounted before the end", with: two + "BROKEN_SPILLED_EARLY", caughtBy: "spilled_counts_all"},
	{name: "evicted record not uncounted", with: two + "EVICTIONS=1 BROKEN_NOT_UNCOUNTED", caughtBy: "spilled_is_zero_at_rest"},
	{name: "no second look at the tag", with: "READ BROKEN_SECOND_LOOK", caughtBy: "copy_is_of_one_record"},
	{name: "version stays", with: "READ BROKEN_VERSION", caughtBy: "copy_is_of_one_record"},
	{name: "next hop by a store", with: "READ BROKEN_HOP_STORE", caughtBy: "copy_is_of_one_record"},
	{name: "weak order: a twin that becomes LIVE between two looks at its tag is none", with: two + "WEAK READER BROKEN_TWIN_CHANGES", caughtBy: "one_owner_per_tuple"},
	{name: "weak order: tag by a store", with: "READ WEAK BROKEN_WEAK_PUBLISH", caughtBy: "copy_is_of_one_record"},
	{name: "weak order: no dependency", with: "READ WEAK BROKEN_WEAK_READER", caughtBy: "copy_is_of_one_record"},
	{name: "loser takes the winner's reply", with: openBoth + "BROKEN_UNDO", caughtBy: "opened_flow_has_reply"},
	{name: "loser confirms only once", with: openSeen + "STRANGERS=1 BROKEN_JOIN_MARKS_ONCE", caughtBy: "confirmed_flow_has_confirmed_reply", large: true},
	{name: "last look does not confirm", with: openSeen + "BROKEN_NO_LAST_MARK", caughtBy: "confirmed_flow_has_confirmed_reply"},
	{name: "last look confirms only once", with: confirm + "BROKEN_MARK_ONCE", caughtBy: "confirmed_flow_has_confirmed_reply"},
	{name: "no last look", with: confirm + "BROKEN_NO_LAST_LOOK", caughtBy: "confirmed_flow_has_confirmed_reply"},
	{name: "client stays without a reply", with: crowded + "BROKEN_CLIENT_STAYS", caughtBy: "confirmed_flow_has_confirmed_reply"},
	{name: "confirm without the version", with: crowded + "BROKEN_CONFIRM_BLIND", caughtBy: "confirmed_is_not_replaced"},
	{name: "confirmed record replaced", with: repair + "BROKEN_REPLACE_CONFIRMED", caughtBy: "confirmed_is_not_replaced"},
	{name: "record taken by version only", with: repair + "BROKEN_TAKE_CONFIRMED", caughtBy: "confirmed_is_not_replaced"},
	{name: "repair without a spare", with: repair + "BROKEN_NO_SPARE", caughtBy: "repair_spares_its_source"},
	{name: "expire by a store", with: expire + "BROKEN_EXPIRE_STORE", caughtBy: "only_what_was_judged_ends"},
	{name: "release by version only", with: expire + "BROKEN_RELEASE_VERSION", caughtBy: "only_what_was_judged_ends"},
}
