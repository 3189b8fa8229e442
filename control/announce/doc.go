// SPDX-License-Identifier: Apache-2.0

// Package announce decides which node answers ARP and neighbour solicitations for an address of a load balancer, and when.
//
// Which node: each node offers itself for addresses, or says why it doesn't. Of the nodes that offer themselves, a hash of
// address and name chooses one (rendezvous hashing), so that all nodes that know the same offers choose the same node, and
// little moves when a node comes or goes.
//
// When: a node that is chosen asks all members that are alive, and answers for the address only after all of them have
// agreed. A node that answers until then stops before it agrees. The kernel of a node answers no longer than until a point in
// time that its agent moves on several times a second, so a node whose agent is dead is silent after [Timing.Lifetime].
// test/model/announce.pml is a model of that, and the comment above type protocol states the rules.
package announce
