/* SPDX-License-Identifier: GPL-2.0 */
#ifndef WAGGLE_WHOHAS_H
#define WAGGLE_WHOHAS_H

#include <linux/ipv6.h>
#include "addr.h"

/* RFC 826. The kernel's header needs the C library's. */
#define ARP_ETHERNET 1
#define ARP_REQUEST 1
#define ARP_REPLY 2

/* Of Ethernet and IPv4. */
struct arp {
	__be16 hardware;
	__be16 protocol; /* an EtherType */
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target[4];
};

/* RFC 4861, 4.3, 4.4 and 4.6.1. */
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_SOLICITED 0x40000000
#define ND_OVERRIDE 0x20000000
#define ND_SOURCE_LINK_ADDR 1
#define ND_TARGET_LINK_ADDR 2

/* RFC 4861, 7.1.1: what comes with another one has passed a router. */
#define ND_HOP_LIMIT 255

/* A link-layer address as an option. All options have lengths of whole units. */
#define ND_OPTION_UNIT 8

struct nd_option {
	__u8 type;
	__u8 units;
	__u8 mac[ETH_ALEN];
};

/* As many as are read; one that solicits puts one or two there. */
#define ND_OPTIONS 4

/* A neighbour solicitation or advertisement. */
struct nd_message {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 flags; /* of an advertisement */
	struct addr target;
	struct nd_option options[ND_OPTIONS];
};

#define ND_HEADER offsetof(struct nd_message, options)

/* A frame that asks for the MAC of an address, and then is made the answer. All lies at multiples of its size. */
struct who_has {
	__u16 pad;
	struct ethhdr eth;
	union {
		struct arp arp;
		struct {
			struct ipv6hdr ip;
			struct nd_message nd;
		};
	};
	/* what is read of it */
	struct addr sender; /* 0: it has none */
	struct addr target;
};

/* Of an advertisement, from the Ethernet header on. */
#define ND_ANSWER (ETH_HLEN + sizeof(struct ipv6hdr) + ND_HEADER + sizeof(struct nd_option))

#endif
