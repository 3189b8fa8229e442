/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A client's datagrams to an endpoint, and its first one to a service that leads there, from one port and on several
 * processors (bpf/direct.h), for the checker spin.
 *
 * A datagram notes its tuple, then looks for the record that the service's answers have. The service's flow claims that
 * record, and looks for the note before and after that. Who finds the other gets another source port.
 *
 * A store stays in the processor's buffer until an operation that is a full barrier, or until it is drained. The buffers
 * process drains them at any time.
 *
 * Left out, and found with the client's next datagram: a place of the cache that another tuple takes, and a second datagram
 * to the service at the same time, which makes the record anew.
 *
 * A BROKEN_x macro breaks one step. test/model/checkprotocol runs all of them.
 */

#ifndef DATAGRAMS
#define DATAGRAMS 2
#endif

/* Memory. */
bool noted, reply, has_flows;
/* The buffers of the processors. */
bool note_waits[DATAGRAMS], flag_waits;

/* What came of it. */
byte ended;
bool direct_keeps, service_keeps;

/* The invariant. It is 0: the checker names what is violated. */
hidden byte endpoint_tells_them_apart;

proctype datagram(byte me) {
	bool sees = false;
#ifdef BROKEN_LOOKS_FIRST
	sees = has_flows && reply;
#endif
#ifdef BROKEN_WEAK_READER
	bool early = has_flows && reply, is_early = false;
#endif
	if
	:: noted -> /* lately: it writes nothing, and has a barrier where order is weak */
#ifdef BROKEN_WEAK_READER
		is_early = true
#else
		skip
#endif
	:: !noted ->
#ifdef BROKEN_NOTE_BY_STORE
		note_waits[me] = true
#else
		noted = true
#endif
	fi;
#ifndef BROKEN_LOOKS_FIRST
	if
	:: has_flows -> sees = reply
	:: else
	fi;
#endif
#ifdef BROKEN_WEAK_READER
	if
	:: is_early -> sees = early
	:: else
	fi;
#endif
	d_step {
		direct_keeps = direct_keeps || !sees;
		ended++
	}
}

proctype service() {
	bool sees = false;
#ifndef BROKEN_FLAG_LATE
	flag_waits = true;
#endif
	sees = noted;
	if
	:: sees
	:: else ->
		d_step { /* the claim, a full barrier */
			has_flows = has_flows || flag_waits;
			flag_waits = false;
			reply = true
		}
#ifndef BROKEN_LOOKS_ONCE
		sees = noted;
#endif
#ifdef BROKEN_FLAG_LATE
		has_flows = true;
#endif
		if
		:: sees -> reply = false
		:: else
		fi
	fi;
	d_step {
		service_keeps = !sees;
		ended++
	}
}

proctype buffers() {
	do
	:: d_step { flag_waits -> has_flows = true; flag_waits = false }
	:: d_step { note_waits[0] -> noted = true; note_waits[0] = false }
	:: d_step { note_waits[DATAGRAMS - 1] -> noted = true; note_waits[DATAGRAMS - 1] = false }
	:: ended == DATAGRAMS + 1 -> break
	od
}

init {
	byte i = 0;
	atomic {
		for (i : 0 .. DATAGRAMS - 1) { run datagram(i) }
		run service();
		run buffers()
	}
	ended == DATAGRAMS + 1;
	if
	:: !(direct_keeps && service_keeps)
	:: else -> assert(endpoint_tells_them_apart)
	fi
}
