// SPDX-License-Identifier: Apache-2.0

/*
 * The protocol of bpf/flowtable.h and bpf/claim.h, for the checker spin.
 * One of these macros chooses the scenario:
 *
 *   CLAIM  Processors claim one key: reserve, offer, settle, free.
 *   READ   A reader copies a record while its way changes hands.
 *   FLOW   Flows of two records: open, confirm, repair, replace, expire.
 *
 * CLAIM and READ take each load and each store as a step. FLOW takes each
 * operation of the table as a step. CLAIM shows that settle() is one step to
 * others: a record becomes LIVE only if no other record of its key is. READ
 * shows that find() is one step: the copy is of one record.
 *
 * A BROKEN_x macro breaks one rule. test/model/checkprotocol runs all of them.
 *
 * Memory order. On x86 (TSO) a store may stay in the processor's buffer. The
 * buffer is a queue, and a locked instruction empties it. With WEAK the buffer
 * is a set: its stores become visible in any order. A reader's loads take
 * place in any order then, except where one depends on another. An atomic
 * operation that returns a value is a full barrier, as the kernel defines it.
 */

#define FREE 0
#define BUSY 1
#define OFFERED 2
#define LIVE 3
#define STATE(t) ((t) & 3)
#define NONE 15 /* no way */

/* The invariants. All are 0: the checker names the one that is violated. */
hidden byte one_owner_per_tuple, winner_is_told, loser_finds_winner, found_until_it_ends,
	spilled_counts_all, spilled_is_zero_at_rest, settle_is_bounded, copy_is_of_one_record,
	confirmed_is_not_replaced, confirmed_flow_has_confirmed_reply, opened_flow_has_reply,
	reply_has_flow, repair_spares_its_source, stranger_is_not_confirmed,
	only_what_was_judged_ends, nothing_is_left_over, some_flow_is_there;

#define INVARIANT(name, holds) if :: (holds) :: else -> assert(name) fi

#ifdef CLAIM
/*
 * Key 1 may be in set 0, and if that is full in set 1. Ways 0 to SET0 - 1 are
 * set 0, the others are set 1. A tag is 4 bits of version and these: 4 is
 * CONFIRMED, 8 says that the record is in its second choice.
 */
#ifndef NW
#define NW 3 /* ways */
#define SET0 1
#endif
#ifndef CPUS
#define CPUS 3
#endif
/* So many looks for twins are enough. */
#ifndef LOOKS
#define LOOKS 5
#endif
#define CONF 4
#define SECOND 8
#define VERSION 16
#define VERSIONS 240
#define KEY 1
#define STRANGER 2

byte tag[NW], key[NW], spilled;
byte turn, finished, owners;

/* Processors differ in nothing. They make their first reservation in order. */
#ifdef BROKEN_BARRIER
bool pending[CPUS];
byte pending_way[CPUS], pending_tag[CPUS];
inline flush(p) {
	if
	:: pending[p] ->
		tag[pending_way[p]] = pending_tag[p];
		pending[p] = false; pending_way[p] = 0; pending_tag[p] = 0
	:: else
	fi
}
active proctype drain() {
end:	do
	:: d_step { pending[0] -> flush(0) }
	:: d_step { pending[1] -> flush(1) }
	od
}
#else
#define flush(p) skip
#endif

#define HAS(a) (STATE(tag[a]) == LIVE && key[a] == KEY)
#define COUNTED(a) ((tag[a] & SECOND) && STATE(tag[a]) >= OFFERED)
#if NW == 2
#define LIVES (HAS(0) + HAS(1))
#define IN_SECOND (COUNTED(0) + COUNTED(1))
#elif NW == 3
#define LIVES (HAS(0) + HAS(1) + HAS(2))
#define IN_SECOND (COUNTED(0) + COUNTED(1) + COUNTED(2))
#else
#define LIVES (HAS(0) + HAS(1) + HAS(2) + HAS(3))
#define IN_SECOND (COUNTED(0) + COUNTED(1) + COUNTED(2) + COUNTED(3))
#endif

inline check() {
	INVARIANT(one_owner_per_tuple, LIVES <= 1);
	INVARIANT(spilled_counts_all, spilled >= IN_SECOND)
}

/* ok: a compare-and-swap succeeded. */
inline cas(w, old, new) {
	d_step {
		flush(me);
		if
		:: tag[w] == (old) -> tag[w] = (new); ok = true; check()
		:: else -> ok = false
		fi
	}
}

inline count(t, n) {
	if
	:: (t) & SECOND -> d_step { spilled = spilled + (n); check() }
	:: else
	fi
}

/* As way_free(). */
inline free(w, t) {
#ifdef BROKEN_SPILLED_EARLY
	count(t, -1);
	cas(w, t, (t) & VERSIONS);
	if :: !ok -> count(t, 1) :: else fi
#else
	cas(w, t, (t) & VERSIONS);
	if :: ok -> count(t, -1) :: else fi
#endif
}

#define IS_LIVE(w, t) (tag[w] == ((t) | LIVE))

#define NO_FREE (STATE(tag[0]) && STATE(tag[1]) && STATE(tag[NW - 2]) && STATE(tag[NW - 1]))

/*
 * Any FREE way will do, so the order of the choice does not matter. `mine` is
 * the way, `mine_t` its tag.
 */
inline reserve() {
	atomic {
		if
		:: STATE(tag[0]) == FREE -> mine = 0
		:: STATE(tag[1]) == FREE -> mine = 1
#if NW > 2
		:: STATE(tag[2]) == FREE -> mine = 2
#endif
#if NW > 3
		:: STATE(tag[3]) == FREE -> mine = 3
#endif
		:: NO_FREE -> mine = NONE
		fi;
		if
		:: mine != NONE ->
			mine_t = ((tag[mine] & VERSIONS) + VERSION) & VERSIONS;
			if :: mine >= SET0 -> mine_t = mine_t | SECOND :: else fi;
			tag[mine] = mine_t | BUSY;
			flush(me);
			if :: turn == me -> turn++ :: else fi
		:: else
		fi
	}
}

#ifdef WEAK
inline see() {
	seen = seen | (1 << i);
	twin_t = tag[i];
	if :: STATE(twin_t) >= OFFERED -> skip :: else -> twin_t = 0 fi
}
/* The tag is read once more, as a barrier before the key. */
inline again() {
#ifdef BROKEN_TWIN_CHANGES
	if :: tag[i] != twin_t -> twin_t = 0 :: else fi
#else
	twin_t = tag[i];
	if :: STATE(twin_t) >= OFFERED -> skip :: else -> twin_t = 0 fi
#endif
}
inline use() {
	atomic { if :: twin_t -> again() :: else fi };
	if
	:: twin_t && key[i] == KEY && (i < SET0 || (seen & 32)) -> found = true
	:: twin_t && key[i] == KEY && i >= SET0 && !(seen & 48) ->
		if :: spilled -> found = true :: else -> seen = seen | 16; twin_t = 0 fi
	:: else -> twin_t = 0
	fi
}

/*
 * As twin_find(), but the ways are looked at in any order, and any twin may be
 * the one that is found. seen: one bit for each way, 16 and 32 for `spilled`
 * when it was 0 and when it was not.
 */
inline find_twin() {
	do
	:: found -> twin = i; found = false; break
	:: !found && !(seen & 48) -> d_step { if :: spilled -> seen = seen | 32 :: else -> seen = seen | 16 fi }
	:: atomic {
		!found && !(seen & (1 << 0)) && target != 0 -> i = 0; see() }
		use()
	:: atomic {
		!found && !(seen & (1 << 1)) && target != 1 -> i = 1; see() }
		use()
#if NW > 2
	:: atomic {
		!found && !(seen & (1 << 2)) && target != 2 -> i = 2; see() }
		use()
#endif
	:: atomic { !found && (seen & ((1 << SET0) - 1) | (target < SET0 -> 1 << target : 0)) == ((1 << SET0) - 1) &&
		((seen & 16) || ((seen & 32) &&
		((seen & 15) | (target < NW -> 1 << target : 0)) == ((1 << NW) - 1))) ->
		twin = NONE; break }
	od;
	atomic { seen = 0; i = 0 }
}
#else
/* As twin_find(): twin, and its tag twin_t. NONE: there is no twin. */
inline find_twin() {
	do
	:: i == NW -> twin = NONE; break
	:: i == SET0 && !seen ->
		seen = 1;
		if :: spilled == 0 -> i = NW :: else fi
	:: i < NW && (i != SET0 || seen) && i == target -> i++
	:: i < NW && (i != SET0 || seen) && i != target ->
		twin_t = tag[i];
		if
#ifdef BROKEN_OFFERED_IGNORED
		:: STATE(twin_t) < LIVE -> i++; twin_t = 0
#else
		:: STATE(twin_t) < OFFERED -> i++; twin_t = 0
#endif
		:: else ->
			if
			:: key[i] == KEY ->
#ifdef BROKEN_HALF_HELP
				/* The winner is only made LIVE if this one look finds no other twin. */
				if
				:: STATE(twin_t) == OFFERED && i < target && winner == NONE ->
					winner = i; winner_t = twin_t; i++; twin_t = 0
				:: STATE(twin_t) == OFFERED && i < target && winner != NONE ->
					i++; twin_t = 0
				:: else -> twin = i; break
				fi
#else
				twin = i; break
#endif
			:: else -> i++; twin_t = 0
			fi
		fi
	od;
#ifdef BROKEN_HALF_HELP
	atomic {
		if :: twin == NONE && winner != NONE -> twin = winner; twin_t = winner_t :: else fi;
		winner = NONE; winner_t = 0
	};
#endif
	atomic { i = 0; seen = 0 }
}
#endif

/* As settle_twin(). */
inline settle_twin() {
	if
	:: STATE(twin_t) == LIVE -> ended = true
	:: STATE(twin_t) == OFFERED && target != NONE && twin > target -> free(twin, twin_t)
	:: STATE(twin_t) == OFFERED && (target == NONE || twin < target) ->
#if defined(BROKEN_HELP) || defined(BROKEN_HALF_HELP)
		/* The winner is made LIVE at once. */
		cas(twin, twin_t, twin_t | LIVE)
#else
		if
		:: target != NONE ->
			free(target, target_t);
			if :: !ok && IS_LIVE(target, target_t) -> ended = true :: else fi
		:: else
		fi;
		if
		:: !ended ->
			d_step { target = twin; target_t = twin_t };
			cas(target, target_t, target_t);
			if :: !ok -> target = NONE; target_t = 0 :: else fi
		:: else
		fi
#endif
	fi
}

/* As settle_alone(). */
inline settle_alone() {
	if
#ifdef BROKEN_ENDS_EARLY
	:: target == NONE -> ended = true
#else
	:: target == NONE -> skip /* The winner may have been OFFERED behind the look. */
#endif
	:: else ->
		cas(target, target_t, target_t | LIVE);
		if
		:: ok || IS_LIVE(target, target_t) -> ended = true
		:: else -> target = NONE; target_t = 0
		fi
	fi
}

/* As flow_settle(): ok says whether the record is the tuple's. */
inline settle() {
	d_step { target = mine; target_t = mine_t };
	do
#if defined(EVICTIONS) || defined(TAKE)
	/* What won may have gone again. */
	:: !ended && looks == LOOKS -> break
	:: !ended && looks < LOOKS ->
#else
	:: !ended ->
#endif
		looks++;
		INVARIANT(settle_is_bounded, looks <= LOOKS);
#ifdef BROKEN_NO_LOOK
		twin = NONE;
#else
		find_twin();
#endif
		if :: twin != NONE -> settle_twin() :: else -> settle_alone() fi;
		d_step { twin = 0; twin_t = 0 }
	:: else -> break
	od;
	atomic { ended = false; target = 0; target_t = 0; looks = 0 };
	if
	:: IS_LIVE(mine, mine_t) -> ok = true
	:: else ->
		free(mine, mine_t);
		ok = !ok && IS_LIVE(mine, mine_t)
	fi
}

proctype cpu(byte me) {
	byte mine, mine_t, target, target_t, twin, twin_t, i, looks, seen;
	bool ok, ended;
#ifdef WEAK
	bool found;
#endif
#ifdef BROKEN_HALF_HELP
	byte winner = NONE, winner_t;
#endif
	turn == me;
#ifdef TAKE
	/* A record of the key that may be replaced: its way is taken, `spilled` stays. */
	atomic {
		if
		:: HAS(0) -> mine = 0
		:: HAS(1) -> mine = 1
		:: HAS(2) -> mine = 2
		:: else -> mine = NONE
		fi;
		if :: mine != NONE -> mine_t = tag[mine] :: else fi
	}
	if
	:: mine != NONE ->
		cas(mine, mine_t, ((mine_t & VERSIONS) + VERSION) & VERSIONS | mine_t & SECOND | BUSY);
		if
		:: ok ->
			atomic {
				mine_t = ((mine_t & VERSIONS) + VERSION) & VERSIONS | mine_t & SECOND;
				if :: turn == me -> turn++ :: else fi
			};
			goto offer
		:: else
		fi
	:: else
	fi;
#endif
	reserve();
	if
	:: mine == NONE -> goto out /* no room */
	:: else
	fi;
	key[mine] = KEY;
#ifndef BROKEN_SPILLED_LATE
	count(mine_t, 1);
#endif
#ifdef TAKE
offer:
#endif
	/* As way_offer(): an exchange, that is a full barrier. */
#ifdef BROKEN_BARRIER
	atomic {
		mine_t = mine_t | OFFERED;
		pending[me] = true; pending_way[me] = mine; pending_tag[me] = mine_t
	};
#else
	atomic { mine_t = mine_t | OFFERED; tag[mine] = mine_t; check() };
#endif
#ifdef BROKEN_SPILLED_LATE
	count(mine_t, 1);
#endif
	settle();
	d_step {
		if
		:: ok -> owners++
#if !defined(EVICTIONS) && !defined(TAKE)
		:: !ok -> INVARIANT(loser_finds_winner, LIVES == 1)
#endif
		:: else
		fi
	};
out:
	atomic {
		finished++;
		if
		:: finished == CPUS ->
#ifdef EVICTIONS
			skip
#else
#ifndef TAKE
			INVARIANT(winner_is_told, owners == 1);
#endif
#if !defined(TAKE) || CPUS == 2
			/*
			 * With three, one may be taken and withdrawn for a
			 * record whose owner has seen the one that was taken.
			 */
			INVARIANT(some_flow_is_there, LIVES == 1);
#endif
			INVARIANT(spilled_is_zero_at_rest, spilled == IN_SECOND)
#endif
		:: else
		fi
	}
}

#ifdef EVICTIONS
/* Replaces a record that is LIVE and not confirmed, whosever it is, and ends its own again. */
proctype stranger(byte me) {
	byte w, t, n;
	bool ok;
	do
	:: n < EVICTIONS ->
		n++;
		atomic {
			if
			:: HAS(0) -> w = 0
			:: HAS(1) -> w = 1
			:: HAS(NW - 1) -> w = NW - 1
			:: else -> w = NONE
			fi;
			if :: w != NONE -> t = tag[w] :: else fi
		}
		if
		:: w != NONE -> cas(w, t, ((t & VERSIONS) + VERSION) & VERSIONS | BUSY)
		:: else -> ok = false
		fi;
		if
		:: ok ->
			/* As evicted_uncount(). */
#ifndef BROKEN_NOT_UNCOUNTED
			count(t, -1);
#endif
			key[w] = STRANGER;
			d_step {
				t = ((t & VERSIONS) + VERSION) & VERSIONS | LIVE;
				tag[w] = t; check()
			};
			cas(w, t, t & VERSIONS);
			assert(ok)
		:: else
		fi;
		d_step { t = 0; w = 0 }
	:: break
	od;
	atomic { n = 0; finished++ }
}
active proctype at_rest() {
	d_step {
		finished == CPUS + 1 ->
		INVARIANT(spilled_is_zero_at_rest, spilled == IN_SECOND);
		INVARIANT(nothing_is_left_over, STATE(tag[0]) % 3 == 0 && STATE(tag[1]) % 3 == 0 &&
			STATE(tag[NW - 1]) % 3 == 0)
	}
}
#endif

#ifdef READER
/* As flow_find(). What is LIVE when it begins, and does not end, is found. */
active proctype reader() {
	byte i, t;
	bool was, found;
	i = 0;
	d_step { was = LIVES == 1; t = tag[0] };
	do
	:: i < NW && !found ->
		if
		:: STATE(t) == LIVE ->
			if
			:: key[i] == KEY -> found = (tag[i] & (VERSIONS | 3)) == (t & (VERSIONS | 3))
			:: else
			fi
		:: else
		fi;
		i++;
		t = 0;
		if
		:: i == SET0 && spilled == 0 -> i = NW
		:: else
		fi;
		if
		:: i < NW -> t = tag[i]
		:: else
		fi
	:: else -> break
	od;
	INVARIANT(found_until_it_ends, found || !was);
	d_step { i = 0; t = 0; was = false; found = false }
}
#endif

init {
	atomic {
#ifdef TAKE
		if
		:: tag[0] = LIVE; key[0] = KEY
		:: tag[1] = LIVE | SECOND; key[1] = KEY; spilled = 1
		fi;
#endif
#ifdef BESIDE_STRANGER
		/* A confirmed record of another flow may be in the first way. */
		if
		:: tag[0] = LIVE | CONF; key[0] = STRANGER
		:: skip
		fi;
#endif
		run cpu(0);
		run cpu(1);
#if CPUS > 2
		run cpu(2);
#endif
#ifdef EVICTIONS
		run stranger(CPUS);
#endif
	}
}
#endif /* CLAIM */

#ifdef READ
/*
 * One way. Its tag is a version and a state. The record has two words: its
 * key, and a rewrite that says which tenant it is of, and whether its next hop
 * has been changed. Two writers let the way again and again; a reader copies.
 */
#define VERSION 4
#define TENANCIES 2 /* of each writer */
#define KEY 1
#define CHANGED 16

byte tag, key, rewrite;
/* What is true, whatever the readers see: the last tenant, and each one's key and version. */
byte tenant, tenant_key[2 * TENANCIES + 1], tenant_tag[2 * TENANCIES + 1];
/* Each writer's buffer, by what is in it. */
bool has_key[2], has_rewrite[2], has_tag[2];
byte buffer_key[2], buffer_rewrite[2], buffer_tag[2];

inline drain_key(p) { key = buffer_key[p]; buffer_key[p] = 0; has_key[p] = false }
inline drain_rewrite(p) { rewrite = buffer_rewrite[p]; buffer_rewrite[p] = 0; has_rewrite[p] = false }
inline drain_tag(p) { tag = buffer_tag[p]; buffer_tag[p] = 0; has_tag[p] = false }

#ifdef WEAK
#define BEFORE_REWRITE(p) true
#define BEFORE_TAG(p) true
#else
#define BEFORE_REWRITE(p) !has_key[p]
#define BEFORE_TAG(p) (!has_key[p] && !has_rewrite[p])
#endif

active proctype buffers() {
end:	do
	:: d_step { has_key[0] -> drain_key(0) }
	:: d_step { has_key[1] -> drain_key(1) }
	:: d_step { BEFORE_REWRITE(0) && has_rewrite[0] -> drain_rewrite(0) }
	:: d_step { BEFORE_REWRITE(1) && has_rewrite[1] -> drain_rewrite(1) }
	:: d_step { BEFORE_TAG(0) && has_tag[0] -> drain_tag(0) }
	:: d_step { BEFORE_TAG(1) && has_tag[1] -> drain_tag(1) }
	od
}

/* A full barrier empties the buffer. */
inline flush(p) {
	if :: has_key[p] -> drain_key(p) :: else fi;
	if :: has_rewrite[p] -> drain_rewrite(p) :: else fi;
	if :: has_tag[p] -> drain_tag(p) :: else fi
}

proctype writer(byte me) {
	byte n, t;
	bool ok;
	do
	:: n < TENANCIES ->
		n++;
		t = tag;
		if
		:: STATE(t) == LIVE || STATE(t) == FREE ->
			d_step {
				flush(me);
				ok = tag == t;
#ifdef BROKEN_VERSION
				t = (t & ~3) | BUSY;
#else
				t = (t & ~3) + VERSION | BUSY;
#endif
				if
				:: ok ->
					tag = t;
					tenant++;
					buffer_rewrite[me] = tenant;
					tenant_tag[tenant] = t | LIVE
				:: else -> t = 0
				fi
			}
		:: else -> ok = false
		fi;
		if
		:: ok ->
			/* The new tenant has the same key or another. */
			atomic {
				if
				:: buffer_key[me] = KEY
				:: buffer_key[me] = KEY + 1
				fi;
				tenant_key[buffer_rewrite[me]] = buffer_key[me];
				has_key[me] = true
			};
			d_step { has_rewrite[me] = true };
#if defined(PLAIN_PUBLISH) || defined(BROKEN_WEAK_PUBLISH)
			d_step { buffer_tag[me] = t | LIVE; has_tag[me] = true }
#else
			d_step { flush(me); tag = t | LIVE }
#endif
		:: else
		fi;
		d_step { t = 0; ok = false }
	:: else -> break
	od
}

/* The loads of find(): tag, record, tag again. */
active proctype reader() {
	byte t, k, r, again, n, i;
	bool got_t, got_k, got_r, got_again;
	do
	:: n < 2 ->
		n++;
#ifdef WEAK
		do
		:: !got_t -> d_step { t = tag; got_t = true }
#ifdef BROKEN_WEAK_READER
		:: !got_k -> d_step { k = key; got_k = true }
		:: !got_r -> d_step { r = rewrite; got_r = true }
		:: !got_again -> d_step { again = tag; got_again = true }
#else
		/* The place of the record depends on the first tag, that of the second on the record. */
		:: got_t && !got_k -> d_step { k = key; got_k = true }
		:: got_t && !got_r -> d_step { r = rewrite; got_r = true }
		:: got_k && got_r && !got_again -> d_step { again = tag; got_again = true }
#endif
		:: got_t && got_k && got_r && got_again -> break
		od;
		atomic { got_t = false; got_k = false; got_r = false; got_again = false };
#else
		t = tag;
		if
		:: STATE(t) == LIVE -> k = key
		:: else
		fi;
		if
		:: STATE(t) == LIVE && k == KEY -> r = rewrite; again = tag
		:: else
		fi;
#endif
#ifdef BROKEN_SECOND_LOOK
		again = t;
#endif
		if
		:: STATE(t) == LIVE && k == KEY && again == t ->
			d_step {
				i = r & ~CHANGED;
				INVARIANT(copy_is_of_one_record, i && tenant_key[i] == KEY && tenant_tag[i] == t)
			};
			/* As flow_set_hop(): only if it is what was copied. */
#ifdef BROKEN_HOP_STORE
			rewrite = r | CHANGED
#else
			d_step { if :: rewrite == r -> rewrite = r | CHANGED :: else fi }
#endif
		:: else
		fi;
		d_step { t = 0; k = 0; r = 0; again = 0; i = 0 }
	:: else -> break
	od
}

init {
	atomic {
		run writer(0);
		run writer(1)
	}
}
#endif /* READ */

#ifdef FLOW
/*
 * A flow has two records. The client's is under key CLIENT and leads to
 * backend 0 or 1. The reply's is under key REPLY + backend and leads to a
 * client: OURS or another. One set; any way may hold any record. Each record
 * of a STRANGER has a key of its own. In a tag, 4 is CONFIRMED, the rest is
 * the version. `late` says of a way that its record has expired as it is.
 */
#ifndef NW
#define NW 4
#endif
#define CONF 4
#define VERSION 8
#define IDENTITY(t) ((t) & ~CONF) /* what a record keeps while it is LIVE */
#define CLIENT 1
#define REPLY 2
#define STRANGER 4
#define OURS 0
#define OTHERS 1
#define NO_SPARE NONE

byte tag[NW], key[NW], to[NW];
bool late[NW];
byte running;
bool evicted; /* Some record of our flows was replaced. */

#define HOLDS(a, k) (STATE(tag[a]) == LIVE && key[a] == (k))
#define HOLDS_TO(a, k, v) (HOLDS(a, k) && to[a] == (v))
#define OF_OURS(a) (STATE(tag[a]) == LIVE && (key[a] == CLIENT || key[a] != STRANGER && to[a] == OURS))

/* As flow_lookup(): where, its tag and what it leads to. where == NONE: there is none. */
inline find(k) {
	d_step {
		where = NONE; where_t = 0; where_to = 0; i = 0;
		do
		:: i < NW && HOLDS(i, k) -> where = i; where_t = tag[i]; where_to = to[i]; i = NW
		:: i < NW && !HOLDS(i, k) -> i++
		:: else -> break
		od;
		i = 0
	}
}

/* As flow_mark(.., STATE_CONFIRMED). */
inline confirm(w, t) {
	d_step {
#ifdef BROKEN_CONFIRM_BLIND
		ok = true;
#else
		ok = IDENTITY(tag[w]) == IDENTITY(t);
#endif
		if
		:: ok ->
			INVARIANT(stranger_is_not_confirmed, key[w] != STRANGER);
			tag[w] = tag[w] | CONF; late[w] = false
		:: else
		fi
	}
}

inline clear(w, t) { tag[w] = t; key[w] = 0; to[w] = 0; late[w] = false }

/* As flow_release(): t is the tag as it was judged. */
inline release(w, t) {
	d_step {
		if
#ifdef BROKEN_RELEASE_VERSION
		:: IDENTITY(tag[w]) == IDENTITY(t) ->
#else
		:: tag[w] == (t) ->
#endif
			INVARIANT(only_what_was_judged_ends, tag[w] == (t));
			clear(w, tag[w] & ~7)
		:: else
		fi
	}
}

/*
 * Makes a way BUSY if its tag is t, and writes the record, which settle() does in the
 * datapath: nobody looks at one that is BUSY. ok: b and b_t are the way and its tag.
 */
inline take(w, t, k, leads, same_client) {
	d_step {
#ifdef BROKEN_TAKE_CONFIRMED
		ok = IDENTITY(tag[w]) == IDENTITY(t);
#else
		ok = tag[w] == (t);
#endif
		if
		:: ok ->
			INVARIANT(confirmed_is_not_replaced, !(tag[w] & CONF) || late[w] || (same_client));
			INVARIANT(repair_spares_its_source, !repairing || w != mine ||
				IDENTITY(tag[w]) != IDENTITY(mine_t));
			if :: OF_OURS(w) && !(same_client) -> evicted = true :: else fi;
			b = w;
			b_t = (tag[w] & ~7) + VERSION;
			tag[w] = b_t | BUSY; key[w] = k; to[w] = leads; late[w] = false
		:: else -> b = NONE; b_t = 0
		fi
	}
}

#ifdef BROKEN_REPLACE_CONFIRMED
#define MAY(a, spare) (c == NW && STATE(tag[a]) == LIVE && a != (spare))
#else
#define MAY(a, spare) (c == NW && STATE(tag[a]) == LIVE && (!(tag[a] & CONF) || late[a]) && a != (spare))
#endif

/* As way_choose() and way_take(): FREE before LIVE. b == NONE: there is no room. */
inline reserve(k, leads, spare) {
	ok = false;
	do
	:: !ok && b != NONE -> atomic {
		d_step {
			c = 0;
			do
			:: c < NW && STATE(tag[c]) != FREE -> c++
			:: else -> break
			od
		}
		if
		:: c < NW
		:: MAY(0, spare) -> c = 0
		:: MAY(1, spare) -> c = 1
		:: MAY(2, spare) -> c = 2
#if NW > 3
		:: MAY(3, spare) -> c = 3
#endif
#if NW > 4
		:: MAY(4, spare) -> c = 4
#endif
		:: else -> c = NONE
		fi;
		if :: c != NONE -> c_t = tag[c] :: else -> b = NONE fi }
		if
		:: c != NONE -> take(c, c_t, k, leads, false); if :: !ok -> b = 0 :: else fi
		:: else
		fi
	:: else -> break
	od;
	atomic { c = 0; c_t = 0 }
}

/* As flow_settle(): LIVE; or, if another record of the key is, FREE. ok: it is the tuple's. */
inline settle(w, t, conf) {
	d_step {
		ok = true; i = 0;
		do
		:: i < NW -> if :: HOLDS(i, key[w]) -> ok = false :: else fi; i++
		:: else -> break
		od;
		i = 0;
		if :: ok -> tag[w] = (t) | (conf) | LIVE :: else -> clear(w, t) fi
	}
}

inline abandon(w, t) { d_step { clear(w, t) } }

/*
 * As mirror_get(): the reply of a client's record that leads to v, made anew
 * if it was lost. ok: it is of our flow; where and where_t are its.
 */
inline mirror(v, conf, source) {
	find(REPLY + v);
	if
	:: where != NONE -> ok = where_to == OURS
	:: else ->
		atomic { b = 0; repairing = true };
#ifdef BROKEN_NO_SPARE
		reserve(REPLY + v, OURS, NO_SPARE);
#else
		reserve(REPLY + v, OURS, source);
#endif
		repairing = false;
		if
		:: b != NONE ->
			settle(b, b_t, conf);
			if :: ok -> where = b; where_t = b_t | (conf) | LIVE :: else fi
		:: else -> ok = false
		fi;
		if
		:: !ok -> find(REPLY + v); ok = where != NONE && where_to == OURS
		:: else
		fi
	fi
}

/*
 * The same. Where the client's record is confirmed, the reply is confirmed.
 * Before that it may be replaced: then it is looked for again. Where it is
 * another flow's, the client's record ends.
 */
inline mirror_as(v, conf, source) {
	do
	:: mirror(v, conf, source);
		if
#if !defined(BROKEN_MARK_ONCE) && !defined(BROKEN_NO_LAST_MARK)
		:: ok && (conf) -> confirm(where, where_t); if :: ok -> break :: else fi
#elif defined(BROKEN_MARK_ONCE)
		:: ok && (conf) -> confirm(where, where_t); break
#endif
#ifndef BROKEN_CLIENT_STAYS
		:: !ok -> release(source, mine_t | (conf)); break
#endif
		:: else -> break
		fi
	od
}

/* As open_records(). */
inline open() {
	reserve(CLIENT, v, NO_SPARE);
	if :: b == NONE -> goto out :: else fi;
	d_step { mine = b; mine_t = b_t };
	/* As claim_reply(). */
	find(REPLY + v);
	ok = false;
	if
	:: where != NONE && where_to == OURS -> take(where, where_t, REPLY + v, OURS, true)
	:: where != NONE && where_to != OURS && (!(where_t & CONF) || late[where]) ->
		take(where, where_t, REPLY + v, OURS, false)
	:: where != NONE && where_to != OURS -> abandon(mine, mine_t); goto out
	:: else
	fi;
	if
	:: !ok ->
		b = 0;
		reserve(REPLY + v, OURS, NO_SPARE);
		if :: b == NONE -> abandon(mine, mine_t); goto out :: else fi
	:: else
	fi;
	d_step { reply = b; reply_t = b_t };
	settle(reply, reply_t, 0);
	if :: !ok -> abandon(mine, mine_t); goto out :: else fi;
	settle(mine, mine_t, 0);
	if :: ok -> goto out :: else fi;
	/* If the winner leads to the same backend, then our reply is its. */
#ifdef BROKEN_UNDO
	release(reply, reply_t | LIVE)
#else
	find(CLIENT);
	if
	:: where == NONE || where_to != v -> release(reply, reply_t | LIVE)
	:: else
	fi;
	if
#ifdef BROKEN_JOIN_MARKS_ONCE
	:: where != NONE && where_to == v && (where_t & CONF) -> confirm(reply, reply_t | LIVE)
#else
	:: where != NONE ->
		d_step { mine = where; mine_t = where_t; v = where_to };
		mirror_as(v, mine_t & CONF, mine)
#endif
	:: else
	fi
#endif
}

#define FORGET atomic { where = 0; where_t = 0; where_to = 0; b = 0; b_t = 0; mine = 0; mine_t = 0; \
	reply = 0; reply_t = 0; v = 0; ok = false; running-- }
#define LOCALS byte where, where_t, where_to, i, b, b_t, c, c_t, mine, mine_t, reply, reply_t, v; \
	bool ok, repairing

/* The first packet of a flow; there may be more than one. */
proctype opener() {
	LOCALS;
	find(CLIENT);
	if :: where != NONE -> goto out :: else fi;
	if :: v = 0 :: v = 1 fi;
	open();
out:
	FORGET
}

/* A client's packet that acknowledges: as flow_confirm(). */
proctype confirmer() {
	LOCALS;
	find(CLIENT);
	if :: where == NONE || (where_t & CONF) -> goto out :: else fi;
	d_step { mine = where; mine_t = where_t; v = where_to };
	mirror(v, CONF, mine);
	if :: !ok -> goto out :: else fi;
	d_step { reply = where; reply_t = where_t };
	confirm(reply, reply_t);
	if :: !ok -> goto out :: else fi;
	confirm(mine, mine_t);
	if
	:: !ok ->
		/* As client_restore(). */
		b = 0;
		reserve(CLIENT, v, reply);
		if
		:: b != NONE -> settle(b, b_t, CONF); mine = b; mine_t = b_t | LIVE
		:: else -> ok = false
		fi;
		if
		:: !ok ->
			find(CLIENT);
			if
			:: where != NONE && where_to == v -> mine = where; mine_t = where_t; confirm(where, where_t)
			:: else -> ok = false
			fi
		:: else
		fi;
		if
		:: !ok ->
			release(reply, reply_t | CONF);
			find(CLIENT);
			if
			:: where != NONE ->
				d_step { mine = where; mine_t = where_t; v = where_to };
				mirror_as(v, mine_t & CONF, mine)
			:: else
			fi;
			goto out
		:: else
		fi
	:: else
	fi;
#ifndef BROKEN_NO_LAST_LOOK
	mirror_as(v, CONF, mine);
#endif
out:
	FORGET
}

/* Another packet of the client: as record_usable(). */
proctype packet() {
	LOCALS;
	find(CLIENT);
	if :: where == NONE || (where_t & CONF) -> goto out :: else fi;
	d_step { mine = where; mine_t = where_t; v = where_to };
	mirror(v, 0, mine);
	if :: !ok -> release(mine, mine_t) :: else fi;
out:
	FORGET
}

#ifdef STRANGERS
/* Others' flows come, and some of them go. */
proctype stranger() {
	LOCALS;
	mine = STRANGERS;
	do
	:: mine ->
		mine--;
		b = 0;
		reserve(STRANGER, 0, NO_SPARE);
		if
		:: b != NONE ->
			tag[b] = b_t | LIVE;
			if
			:: release(b, b_t | LIVE)
			:: skip
			fi
		:: else
		fi
	:: else -> break
	od;
	FORGET
}
#endif

/* As expire.c: what has expired is released. */
proctype walker() {
	LOCALS;
	do
	:: mine < NW ->
		d_step { mine_t = tag[mine]; ok = STATE(mine_t) == LIVE && late[mine] };
		if
#ifdef BROKEN_EXPIRE_STORE
		:: ok ->
			d_step {
				INVARIANT(only_what_was_judged_ends, tag[mine] == mine_t);
				clear(mine, tag[mine] & ~7)
			}
#else
		:: ok -> release(mine, mine_t)
#endif
		:: else
		fi;
		mine++
	:: else -> break
	od;
	FORGET
}

#if NW == 3
#define ANY(p) (p(0) || p(1) || p(2))
#elif NW == 4
#define ANY(p) (p(0) || p(1) || p(2) || p(3))
#else
#define ANY(p) (p(0) || p(1) || p(2) || p(3) || p(4))
#endif
#define CLIENT0(a) HOLDS_TO(a, CLIENT, 0)
#define CLIENT1(a) HOLDS_TO(a, CLIENT, 1)
#define REPLY0(a) HOLDS_TO(a, REPLY, OURS)
#define REPLY1(a) HOLDS_TO(a, REPLY + 1, OURS)
#define CONFIRMED_CLIENT0(a) (CLIENT0(a) && (tag[a] & CONF))
#define CONFIRMED_CLIENT1(a) (CLIENT1(a) && (tag[a] & CONF))
#define CONFIRMED_REPLY0(a) (REPLY0(a) && (tag[a] & CONF))
#define CONFIRMED_REPLY1(a) (REPLY1(a) && (tag[a] & CONF))
#define UNSETTLED(a) (STATE(tag[a]) == BUSY || STATE(tag[a]) == OFFERED)

inline judge() {
	INVARIANT(nothing_is_left_over, !ANY(UNSETTLED));
	INVARIANT(confirmed_flow_has_confirmed_reply, (!ANY(CONFIRMED_CLIENT0) || ANY(CONFIRMED_REPLY0)) &&
		(!ANY(CONFIRMED_CLIENT1) || ANY(CONFIRMED_REPLY1)));
#ifdef NEW
	INVARIANT(opened_flow_has_reply, evicted ||
		(!ANY(CLIENT0) || ANY(REPLY0)) && (!ANY(CLIENT1) || ANY(REPLY1)));
#endif
#if defined(NEW) && !defined(CONFIRMERS)
	INVARIANT(reply_has_flow, evicted ||
		(ANY(CLIENT0) || !ANY(REPLY0)) && (ANY(CLIENT1) || !ANY(REPLY1)))
#endif
}

active proctype at_rest() {
	d_step { running == 0 -> judge() }
}

#define PUT(a, k, v, conf, old) tag[a] = LIVE | (conf); key[a] = k; to[a] = v; late[a] = old

init {
	atomic {
#ifdef ESTABLISHED
		/* A flow that waits for its client; its reply may be lost or another's. */
		PUT(0, CLIENT, 0, 0, false);
		if
		:: PUT(1, REPLY, OURS, 0, false)
		:: PUT(1, STRANGER, 0, CONF, false)
		:: PUT(1, REPLY, OTHERS, 0, false)
		fi;
#endif
#ifdef OLD
		/* The same flow; it has expired unless its client confirms it. */
		PUT(0, CLIENT, 0, 0, true);
		PUT(1, REPLY, OURS, 0, true);
		if
		:: PUT(2, STRANGER, 0, CONF, true)
		:: PUT(2, STRANGER, 0, CONF, false)
		:: skip
		fi;
#endif
#ifdef NEW
		/* No flow; but the reply's tuple may be another's, or left over. */
		if
		:: PUT(0, REPLY, OTHERS, 0, false)
		:: PUT(0, REPLY, OTHERS, CONF, false)
		:: PUT(0, REPLY, OTHERS, CONF, true)
		:: skip
		fi;
#endif
#ifdef FULL
		PUT(NW - 1, STRANGER, 0, CONF, false);
#endif
#ifdef OPENERS
		run opener(); running++;
#if OPENERS > 1
		run opener(); running++;
#endif
#if OPENERS > 2
		run opener(); running++;
#endif
#endif
#ifdef CONFIRMERS
		run confirmer(); running++;
#if CONFIRMERS > 1
		run confirmer(); running++;
#endif
#endif
#ifdef PACKETS
		run packet(); running++;
#if PACKETS > 1
		run packet(); running++;
#endif
#endif
#ifdef STRANGERS
		run stranger(); running++;
#endif
#ifdef WALKERS
		run walker(); running++;
#endif
	}
}
#endif /* FLOW */
