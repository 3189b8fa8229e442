// SPDX-License-Identifier: Apache-2.0

// The command cni is a small CNI runtime: it has the plugins of a network configuration attach a
// container's network namespace to the node that it runs on, and writes their result.
//
//	cni -plugins /usr/lib/cni -cache DIR -conf bridge.conflist -id web -netns /proc/42/ns/net
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/containernetworking/cni/libcni"
)

var (
	plugins = flag.String("plugins", "", "the directory of the plugins")
	cache   = flag.String("cache", "", "the directory where the results are kept")
	conf    = flag.String("conf", "", "a list of plugins with their configurations")
	id      = flag.String("id", "", "the container")
	netns   = flag.String("netns", "", "its network namespace")
	ports   = flag.String("ports", "[]", "its portMappings, as the plugin portmap reads them")
)

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "attach %s by %s: %v\n", *id, *conf, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	list, err := libcni.ConfListFromFile(*conf)
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{*plugins}, *cache, nil)
	var mappings []any
	if err := json.Unmarshal([]byte(*ports), &mappings); err != nil {
		return fmt.Errorf("-ports %s: %w", *ports, err)
	}
	container := &libcni.RuntimeConf{ContainerID: *id, NetNS: *netns, IfName: "eth0",
		CapabilityArgs: map[string]any{"portMappings": mappings}}
	result, err := cni.AddNetworkList(ctx, list, container)
	if err != nil {
		return err
	}
	return result.PrintTo(os.Stdout)
}
