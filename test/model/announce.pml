// SPDX-License-Identifier: Apache-2.0

/*
 * How agents agree which of them answers for an address (control/announce), for the checker spin.
 *
 * N nodes and one address. A node is a kernel, which answers while the address is in its map and its time is not over, and an
 * agent, which runs, is stopped or is dead. Each event that an agent handles is one step. Which node is best is left
 * open: each may claim, and each that answers may give way or not. So the order of claims is arbitrary, as it is while the
 * nodes know different offers.
 *
 * Time is abstract. The time of a kernel whose agent does not run may be over at any step. What Timing.Mourn waits for is that
 * this has happened, unless the agent before had its kernel answer for long because it restarts. An agent is taken for dead
 * only if it does not run. One that was taken for dead, or whose kernel's time was over, notices that it is late (Timing.Late).
 *
 * Messages between two agents may be delayed for ever, and overtake each other.
 *
 * KILLS, STOPS, RESTARTS and CLAIMS (of each node) say how often these happen. A BROKEN_x macro breaks one rule.
 * test/model/checkprotocol runs all of them.
 */

#ifndef N
#define N 2
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef STOPS
#define STOPS 0
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif
#ifndef CLAIMS
#define CLAIMS 2
#endif

#define CLAIM 1
#define AGREED 2
#define DENIED 3
#define RESTART 4
#define NOTED 5

#define DEAD 0
#define RUNS 1
#define STOPPED 2

#define BIT(i) (1 << (i))
#define HAS(set, i) (((set) >> (i)) & 1)
#define ALL (BIT(N) - 1)

/* The invariant. It is 0: the checker names what is violated. */
hidden byte one_node_answers;

#define INVARIANT(name, holds) if :: (holds) :: else -> assert(name) fi

/* From i to j is i * N + j: what, the number of a claim, and the nodes that are mourned. */
chan wire[N * N] = [2] of { byte, byte, byte };
#define TO(i, j) wire[(i) * N + (j)]

bool map[N], live[N], grace[N];
byte agent[N];
bool contact[N], resumed[N], leaving[N], unsure[N], late[N], back[N];
byte view[N], asked[N], waits[N], away[N], mourned[N], unnoted[N];
byte claim[N], last[N];
#ifdef BROKEN_RELEASE_LATE
bool owes[N];
#endif
byte kills = KILLS, stops = STOPS, restarts = RESTARTS;

#define answers(i) (map[i] && live[i])

inline check_answers() {
	byte holders = 0;
	for (k : 0 .. N - 1) {
		if
		:: answers(k) -> holders++
		:: else
		fi
	}
	INVARIANT(one_node_answers, holders <= 1);
	holders = 0; k = 0
}

/* over: the time of a kernel that mourners wait for. They do not wait for as long as a restart takes. */
#define over(k) (!live[k] || grace[k])

inline mourning_is_over(i, yes) {
	yes = true;
#ifndef BROKEN_MOURN
	for (k : 0 .. N - 1) {
		if
		:: HAS(mourned[i], k) && !over(k) -> yes = false
		:: else
		fi
	}
	k = 0
#endif
}

inline send(i, j, what, number) {
	if
	:: nfull(TO(i, j)) -> TO(i, j)!what, number, mourned[i]
	:: full(TO(i, j)) /* it is lost */
	fi
}

inline withdraw(i) { claim[i] = 0; waits[i] = 0; asked[i] = 0 }

inline give_up(i) { map[i] = false; resumed[i] = false }

/* Another program of the node's own agent has nothing of what this one knew. */
inline forget(i) {
	withdraw(i); contact[i] = false; resumed[i] = false; leaving[i] = false; late[i] = false; unsure[i] = false;
	view[i] = 0; away[i] = 0; mourned[i] = 0; unnoted[i] = 0
}

inline on_claim(i, j, number) {
	bool agrees = true;
	if
	:: !HAS(view[i], j) -> agrees = false
	:: else
	fi;
	if
	:: (away[i] & ~BIT(j)) != 0 -> agrees = false
	:: else
	fi;
	if
	:: agrees && map[i] ->
		if
		:: leaving[i] || resumed[i] -> agrees = false
		:: else ->
			if
			:: agrees = false
			:: true ->
#ifdef BROKEN_RELEASE_LATE
				owes[i] = true
#else
				map[i] = false
#endif
			fi
		fi
	:: agrees && !map[i] && claim[i] != 0 ->
		if
		:: i < j -> agrees = false
		:: else ->
#ifndef BROKEN_KEEPS_CLAIM
			withdraw(i)
#else
			skip
#endif
		fi
	:: else
	fi;
	if
	:: agrees -> send(i, j, AGREED, number)
	:: else -> send(i, j, DENIED, number)
	fi;
	agrees = false
}

inline receive(i, j, what, number, mourns) {
	mourned[i] = mourned[i] | (mourns & ~BIT(i));
	if
	:: what == CLAIM -> on_claim(i, j, number)
#ifdef BROKEN_NUMBER
	:: what == AGREED -> waits[i] = waits[i] & ~BIT(j)
#else
	:: what == AGREED && number == claim[i] -> waits[i] = waits[i] & ~BIT(j)
#endif
	:: what == DENIED && number == claim[i] && claim[i] != 0 ->
		withdraw(i);
		if
		:: resumed[i] -> give_up(i)
		:: else
		fi
	:: what == RESTART ->
		if
		:: number == 1 ->
			away[i] = away[i] | BIT(j);
			if
			:: claim[i] != 0 && !resumed[i] -> withdraw(i)
			:: else
			fi
		:: else
		fi;
		send(i, j, NOTED, 0)
	:: what == NOTED -> unnoted[i] = unnoted[i] & ~BIT(j)
	:: else
	fi
}

/* A claim is complete: the address is begun with, unless another kernel is heard to answer where that has to be asked. */
inline complete(i) {
	bool other = false;
#ifndef BROKEN_NO_PROBE
	if
	:: unsure[i] && !resumed[i] ->
		for (k : 0 .. N - 1) {
			if
			:: k != i && answers(k) -> other = true
			:: else
			fi
		}
		k = 0
	:: else
	fi;
#endif
	withdraw(i);
	if
	:: resumed[i] && !live[i] -> give_up(i) /* its time was over before */
	:: else ->
	if
	:: !other -> map[i] = true; live[i] = true; grace[i] = false; resumed[i] = false
	:: else
	fi
	fi;
	other = false
}

proctype node(byte i) {
	byte j = 0, k = 0, what = 0, number = 0, mourns = 0;
	bool yes = false;
	do
	/* It finds out which agents run. They learn of it later. */
	:: atomic { agent[i] == RUNS && !contact[i] ->
		for (k : 0 .. N - 1) {
			if
			:: k != i && agent[k] == RUNS && (contact[k] || k < i) ->
				yes = true;
				view[i] = view[i] | BIT(k) | (view[k] & ~BIT(i));
				away[i] = away[i] | (away[k] & ~BIT(i)); mourned[i] = mourned[i] | (mourned[k] & ~BIT(i))
			:: else
			fi
		}
		for (k : 0 .. N - 1) { /* where it reaches no other it tries for longer than Timing.Late */
			if
			:: !yes && agent[k] == STOPPED -> late[k] = true
			:: else
			fi
		}
		k = 0; yes = false; contact[i] = true }
	:: atomic { agent[i] == RUNS && contact[i] ->
		select(j : 0 .. N - 1);
		if
		:: j != i && agent[j] == RUNS && contact[j] && !HAS(view[i], j) ->
			view[i] = view[i] | BIT(j);
			if
			:: leaving[i] -> unnoted[i] = unnoted[i] | BIT(j); send(i, j, RESTART, map[i])
			:: else
			fi
		:: j != i && agent[j] != RUNS && HAS(view[i], j) -> /* it is taken for dead */
			view[i] = view[i] & ~BIT(j); mourned[i] = mourned[i] | BIT(j);
			waits[i] = waits[i] & ~BIT(j); unnoted[i] = unnoted[i] & ~BIT(j);
			late[j] = true
		:: j != i && HAS(away[i], j) && (agent[j] != RUNS && !live[j] || agent[j] == RUNS && HAS(view[i], j) && back[j] && !resumed[j]) ->
			away[i] = away[i] & ~BIT(j)
		:: else
		fi;
		j = 0 }
	/* It claims, or claims what its kernel answers for since before. */
	:: atomic { agent[i] == RUNS && contact[i] && !leaving[i] && claim[i] == 0 && last[i] < CLAIMS && (resumed[i] || !map[i] && away[i] == 0) ->
		last[i]++; claim[i] = last[i]; waits[i] = view[i]; asked[i] = view[i];
		for (k : 0 .. N - 1) {
			if
			:: HAS(view[i], k) -> send(i, k, CLAIM, claim[i])
			:: else
			fi
		}
		k = 0 }
	/* A member has joined since. */
	:: atomic { agent[i] == RUNS && claim[i] != 0 && (view[i] & ~asked[i]) != 0 ->
		for (k : 0 .. N - 1) {
			if
			:: HAS(view[i] & ~asked[i], k) -> asked[i] = asked[i] | BIT(k); waits[i] = waits[i] | BIT(k); send(i, k, CLAIM, claim[i])
			:: else
			fi
		}
		k = 0 }
	:: atomic { agent[i] == RUNS && contact[i] && claim[i] != 0 && waits[i] == 0 && (view[i] & ~asked[i]) == 0 ->
		mourning_is_over(i, yes);
		if
		:: yes -> complete(i); check_answers()
		:: else
		fi;
		yes = false }
	:: atomic { agent[i] == RUNS ->
		select(j : 0 .. N - 1);
		if
		:: j != i && len(TO(j, i)) > 0 ->
			if
			:: TO(j, i)?what, number, mourns
			:: TO(j, i)??CLAIM, number, mourns -> what = CLAIM
			:: TO(j, i)??AGREED, number, mourns -> what = AGREED
			:: TO(j, i)??NOTED, number, mourns -> what = NOTED
			fi;
			receive(i, j, what, number, mourns); check_answers()
		:: else
		fi;
		j = 0; what = 0; number = 0; mourns = 0 }
#ifdef BROKEN_RELEASE_LATE
	:: atomic { agent[i] == RUNS && owes[i] -> owes[i] = false; map[i] = false }
#endif
	/* It restarts. */
	:: atomic { agent[i] == RUNS && contact[i] && !leaving[i] && restarts > 0 ->
		restarts--; leaving[i] = true; back[i] = false; unnoted[i] = view[i];
		if
		:: !resumed[i] -> withdraw(i)
		:: else
		fi;
		for (k : 0 .. N - 1) {
			if
			:: HAS(view[i], k) -> send(i, k, RESTART, map[i])
			:: else
			fi
		}
		k = 0 }
	:: atomic { agent[i] == RUNS && leaving[i] ->
		if
#ifdef BROKEN_NOT_NOTED
		:: true -> grace[i] = map[i]
#else
		:: unnoted[i] == 0 && !resumed[i] -> grace[i] = map[i]
#endif
		:: true /* it has waited for too long */
		fi;
		agent[i] = DEAD; forget(i) }
	/* A new process. */
	:: atomic { agent[i] == DEAD ->
		agent[i] = RUNS; forget(i); unsure[i] = true; back[i] = true;
		if
		:: answers(i) -> resumed[i] = true
		:: else -> map[i] = false
		fi }
	/* What it had is gone while it had not been agreed on yet. */
	:: atomic { agent[i] == RUNS && map[i] && !live[i] -> give_up(i); withdraw(i) }
	:: atomic { agent[i] == RUNS && kills > 0 -> kills--; agent[i] = DEAD; forget(i) }
	:: atomic { agent[i] == RUNS && stops > 0 -> stops--; agent[i] = STOPPED }
	:: atomic { agent[i] == STOPPED ->
		agent[i] = RUNS;
		if
		:: late[i] || map[i] && !live[i] ->
#ifndef BROKEN_NOT_LATE
			withdraw(i); leaving[i] = false; contact[i] = false; unsure[i] = true;
			if
			:: resumed[i] && live[i]
			:: else -> give_up(i)
			fi
#else
			live[i] = live[i] || map[i]
#endif
		:: else
		fi;
		late[i] = false; check_answers() }
	od
}

/* The time of kernels whose agents do not say that it goes on. */
proctype clock() {
	byte k = 0;
	do
	:: atomic {
		select(k : 0 .. N - 1);
		if
		:: live[k] && (agent[k] != RUNS || resumed[k]) -> live[k] = false; grace[k] = false
		:: else
		fi;
		k = 0 }
	od
}

init {
	byte i = 0;
	atomic {
		for (i : 0 .. N - 1) {
			agent[i] = RUNS; live[i] = true; contact[i] = true; view[i] = ALL & ~BIT(i)
		}
#ifdef HELD
		map[0] = true;
#endif
		for (i : 0 .. N - 1) { run node(i) }
		run clock()
	}
}
