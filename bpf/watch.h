/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_WATCH_H
#define WAGGLE_WATCH_H

#include "scratch.h"
#include "service.h"

/*
 * `waggle monitor`: processes that watch have the programs report what they do.
 *
 * A watcher takes one of `watch_slots`, which holds what it wants to see, and puts
 * a ring buffer of its own into the same element of `watchers`. Its slot has a
 * lease, which it renews each second, so one that is killed costs nothing a few
 * seconds later.
 *
 * `watching` says what any watcher wants. It is all that the programs read while
 * there is no watcher: one word, once for a packet, of a line that is not written. A
 * watcher writes it after its slot and its ring are complete. The program that
 * finds no lease in force clears the word, if it was not written since the
 * program read it: each write of a watcher changes the generation in it.
 *
 * The explain twin reports nothing, see trace.h.
 */
#define WATCH_SLOTS 4

/* The parts of the word. */
#define WATCHING_VERDICTS ((1ULL << 48) - 1) /* a bit for each enum verdict */
#define WATCHING_GENERATION (1ULL << 48) /* 15 bits */
#define WATCHING_BYTES (1ULL << 63) /* some watcher wants packets */

enum watch_flags {
	WATCH_PACKETS = 1, /* with their bytes */
	WATCH_CLIENT = 2, /* only what has an address in `client` */
	WATCH_SERVICES = 4, /* only of services in `watched` */
	WATCH_BACKENDS = 8, /* only of backends in `watched` */
};

/* What a watcher wants to see. Only user space writes it. */
struct watch {
	__u64 until; /* the lease: ns of CLOCK_MONOTONIC; 0: the slot is free */
	__u64 verdicts; /* a bit for each enum verdict */
	__u64 interval; /* ns that one event of a verdict takes from its bucket; 0: no limit */
	__u64 burst; /* ns that a bucket holds */
	struct addr client;
	struct addr mask;
	__u32 family; /* AF_INET or AF_INET6: `client`'s */
	__u32 flags; /* enum watch_flags */
};

/* What became of a watcher's events, by verdict. Only the programs write it, once the watcher has its slot. */
struct watch_meter {
	__u64 due[VERDICT_COUNT]; /* when the bucket is full again: ns of CLOCK_MONOTONIC */
	__u64 limited[VERDICT_COUNT]; /* events that the bucket kept back */
	__u64 full[VERDICT_COUNT]; /* events that the ring had no room for */
};

enum watched_kind {
	WATCHED_SERVICE,
	WATCHED_BACKEND,
};

/* An id that a watcher wants to see. */
struct watched_key {
	__u32 slot;
	__u32 kind; /* enum watched_kind */
	__u32 id;
};

enum event_flags {
	EVENT_AFFINITY = 1, /* the backend was chosen because the client was led there before */
	EVENT_RESET = 2, /* the flow was closed by a reset */
	EVENT_REWRITE = 4, /* `to` and `path` are the flow's */
};

/*
 * What is put into the ring, followed by `before` bytes of the packet as it came,
 * and `after` bytes as it left the program.
 */
struct event {
	__u64 time; /* ns of CLOCK_MONOTONIC */
	struct tuple tuple; /* of the packet, or of the call */
	struct tuple to; /* the rewrite */
	__u32 service; /* ids; 0: none */
	__u32 backend;
	__u32 ifindex; /* where the packet was seen; 0: it is a call */
	__u32 out; /* where it was sent, if past the stack */
	__u32 len; /* of the packet as it came, from its first byte */
	__u32 pid; /* of the process that calls */
	__u16 before;
	__u16 after;
	__u16 path; /* enum flow_flags */
	__u8 verdict; /* enum verdict */
	__u8 hook; /* enum hook */
	__u8 family;
	__u8 tcp_flags;
	__u8 flags; /* enum event_flags */
	__u8 pad;
	__u32 pad2;
	char comm[16];
};

/* As much of a packet as is shown. */
#define SNAP 256

struct event_buffer {
	struct event event;
	__u8 bytes[2 * SNAP]; /* behind the event, as in the ring */
	__u32 saved; /* how many of `bytes` are the packet at hand as it came */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} watching SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WATCH_SLOTS);
	__type(key, __u32);
	__type(value, struct watch);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} watch_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WATCH_SLOTS);
	__type(key, __u32);
	__type(value, struct watch_meter);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} watch_meters SEC(".maps");

struct ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, WATCH_SLOTS);
	__type(key, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__array(values, struct ring);
} watchers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct watched_key);
	__type(value, __u8);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} watched SEC(".maps");

/* Of the packet programs only, as struct scratch. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct event_buffer);
} event_buffers SEC(".maps");

static __always_inline struct event_buffer *event_buffer(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&event_buffers, &zero);
}

/* What is watched. 0: there is no watcher. */
static __always_inline __u64 watch_word(void)
{
	__u32 zero = 0;
	volatile __u64 *word;

	if (explain)
		return 0;
	word = bpf_map_lookup_elem(&watching, &zero);
	return word ? *word : 0;
}

/* Whether a watcher may want to see a verdict. */
static __always_inline bool is_watched(enum verdict verdict)
{
	__u64 word = watch_word();

	return word && word >> verdict & 1;
}

static __always_inline bool watched_has(__u32 slot, enum watched_kind kind, __u32 id)
{
	struct watched_key key = { .slot = slot, .kind = kind, .id = id };

	return bpf_map_lookup_elem(&watched, &key);
}

static __always_inline bool addr_in_mask(const struct watch *w, const struct addr *a)
{
	__be32 differs = (a->word[0] ^ w->client.word[0]) & w->mask.word[0];

	if (w->family == AF_INET6)
		differs |= ((a->word[1] ^ w->client.word[1]) & w->mask.word[1]) |
			   ((a->word[2] ^ w->client.word[2]) & w->mask.word[2]) |
			   ((a->word[3] ^ w->client.word[3]) & w->mask.word[3]);
	return !differs;
}

static __always_inline bool watch_has_client(const struct watch *w, const struct event *e)
{
	if (w->family != e->family)
		return false;
	if (addr_in_mask(w, &e->tuple.saddr) || addr_in_mask(w, &e->tuple.daddr))
		return true;
	return e->flags & EVENT_REWRITE &&
	       (addr_in_mask(w, &e->to.saddr) || addr_in_mask(w, &e->to.daddr));
}

static __always_inline bool watch_admits(const struct watch *w, __u32 slot, const struct event *e)
{
	if (w->flags & WATCH_CLIENT && !watch_has_client(w, e))
		return false;
	if (w->flags & WATCH_SERVICES && !watched_has(slot, WATCHED_SERVICE, e->service))
		return false;
	return !(w->flags & WATCH_BACKENDS) || watched_has(slot, WATCHED_BACKEND, e->backend);
}

/* How often a bucket is tried that other processors take from at the same time. */
#define BUCKET_TRIES 8

/*
 * The token bucket of a verdict, as one word (the generic cell rate algorithm):
 * each event moves the time when the bucket is full again by `interval`.
 */
static __always_inline bool bucket_take(const struct watch *w, __u64 *due, __u64 time)
{
	__u64 seen, full;
	int i;

	if (!w->interval)
		return true;
	for (i = 0; i < BUCKET_TRIES; i++) {
		seen = *(volatile __u64 *)due;
		full = (seen > time ? seen : time) + w->interval;
		if (full - time > w->burst)
			return false;
		if (__sync_val_compare_and_swap(due, seen, full) == seen)
			return true;
	}
	return false;
}

/* Puts an event into a ring, with the packet's bytes if the watcher wants them. Nonzero: there is no room. */
static __always_inline long ring_put(void *ring, const struct watch *w, struct event *e)
{
	__u32 bytes = (__u32)e->before + e->after;
	struct event_buffer *b;

	if (!bytes || !(w->flags & WATCH_PACKETS))
		return bpf_ringbuf_output(ring, e, sizeof(*e), 0);
	b = event_buffer(); /* where such an event is */
	if (!b || bytes > sizeof(b->bytes))
		return -1;
	return bpf_ringbuf_output(ring, &b->event, sizeof(b->event) + bytes, 0);
}

/* Offers an event to a watcher. Returns whether its lease is in force. */
__noinline int watch_slot(struct event *e, __u32 slot)
{
	struct watch_meter *meter;
	__u32 verdict;
	struct watch *w;
	void *ring;

	if (!e)
		return 0;
	verdict = e->verdict;
	barrier_var(verdict); /* read once: what is compared is what indexes */
	w = bpf_map_lookup_elem(&watch_slots, &slot);
	meter = bpf_map_lookup_elem(&watch_meters, &slot);
	if (!w || !meter || w->until <= e->time)
		return 0;
	if (verdict >= VERDICT_COUNT || !(w->verdicts >> verdict & 1) || !watch_admits(w, slot, e))
		return 1;
	if (!bucket_take(w, &meter->due[verdict], e->time)) {
		__sync_fetch_and_add(&meter->limited[verdict], 1);
		return 1;
	}
	ring = bpf_map_lookup_elem(&watchers, &slot);
	if (!ring || ring_put(ring, w, e))
		__sync_fetch_and_add(&meter->full[verdict], 1);
	return 1;
}

/* Offers an event to all watchers. */
__noinline int watch_offer(struct event *e)
{
	__u64 seen = watch_word();
	__u32 i, zero = 0, held = 0;
	__u64 *word;

	if (!e)
		return 0;
	e->time = bpf_ktime_get_ns();
	for (i = 0; i < WATCH_SLOTS; i++)
		held |= watch_slot(e, i);
	if (held)
		return 0;
	word = bpf_map_lookup_elem(&watching, &zero);
	if (word)
		__sync_val_compare_and_swap(word, seen, 0);
	return 0;
}

/* Counts an event that there was no memory for, as one that no ring had room for. */
static __always_inline int watch_lost(__u32 verdict)
{
	struct watch_meter *meter;
	__u32 i;

	barrier_var(verdict);
	if (verdict >= VERDICT_COUNT)
		return 0;
	for (i = 0; i < WATCH_SLOTS; i++) {
		__u32 slot = i;

		meter = bpf_map_lookup_elem(&watch_meters, &slot);
		if (meter)
			__sync_fetch_and_add(&meter->full[verdict], 1);
	}
	return 0;
}

/* Whether s->record is the flow's of a packet with the verdict, or at least has the ids of service and backend. */
static __always_inline bool has_record(int verdict)
{
	return verdict != VERDICT_NOT_OURS && verdict != VERDICT_FRAGMENT;
}

static __always_inline bool has_rewrite(int verdict)
{
	return verdict == VERDICT_EXPRESS || verdict == VERDICT_STACK ||
	       verdict == VERDICT_SOURCE || verdict >= VERDICT_FLOW_OPENED;
}

static __always_inline void event_record(struct event *e, const struct scratch *s)
{
	const struct record *r = &s->record;

	e->service = r->service;
	e->backend = r->backend;
	if (!has_rewrite(e->verdict))
		return;
	e->to = r->to;
	e->path = r->flags;
	e->flags = EVENT_REWRITE;
	if (e->verdict == VERDICT_EXPRESS && !(r->flags & FLOW_TURN))
		e->out = s->hop.ifindex;
	if (e->verdict == VERDICT_FLOW_OPENED && r->service && s->opening.remembered)
		e->flags |= EVENT_AFFINITY;
	if (e->verdict == VERDICT_FLOW_CLOSED && s->packet.tcp_flags & TCP_RST)
		e->flags |= EVENT_RESET;
}

/* Begins the event of a packet that has met a verdict, or of its flow. */
static __always_inline void event_begin(struct event *e, const struct scratch *s, int hook,
					int verdict)
{
	const struct packet *p = &s->packet;

	__builtin_memset(e, 0, sizeof(*e));
	e->tuple = p->tuple;
	/* where there is no such header, what is there is another packet's */
	if (!has_ports(p->tuple.proto) || verdict == VERDICT_FRAGMENT)
		tuple_set_word(&e->tuple, 0, p->tuple.proto, p->tuple.zone);
	e->ifindex = s->ifindex;
	e->len = p->len + p->l3_off;
	e->verdict = verdict;
	e->hook = hook;
	e->family = p->family;
	e->tcp_flags = p->tcp_flags;
	if (has_record(verdict))
		event_record(e, s);
}

/* Reports what has happened to the flow of the packet at hand. */
__noinline int watch_flow(struct scratch *s, int hook, int verdict)
{
	struct event_buffer *b = event_buffer();

	if (!s || !b)
		return 0;
	event_begin(&b->event, s, hook, verdict);
	return watch_offer(&b->event);
}

/* Counts what has happened to the flow of the packet at hand, and reports it. */
static __always_inline void flow_event(struct scratch *s, enum hook hook, enum verdict verdict)
{
	count(hook, verdict, 0);
	if (is_watched(verdict))
		watch_flow(s, hook, verdict);
}

/*
 * Whether a packet with the verdict leaves the program as another than it came in:
 * rewritten, or as the answer to itself.
 */
static __always_inline bool is_changed(int verdict)
{
	return verdict >= VERDICT_EXPRESS && verdict <= VERDICT_ANNOUNCED;
}

/* How much of a packet is shown. 0: not even its link layer's header is there. */
static __always_inline __u32 snapped(__u32 len)
{
	if (len > SNAP)
		len = SNAP;
	barrier_var(len); /* or the verifier of 6.1 learns nothing from what follows */
	return len < ETH_HLEN ? 0 : len;
}

/* How much of the packet at hand is kept as it came. */
static __always_inline __u32 saved_take(struct event_buffer *b)
{
	__u32 saved = b->saved;

	b->saved = 0;
	if (saved > SNAP)
		saved = 0;
	barrier_var(saved); /* as in snapped() */
	return saved;
}

#endif
