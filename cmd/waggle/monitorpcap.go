// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/gopacket/gopacket"
	linktypes "github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/vishvananda/netlink"
)

// capture writes packets to a pcapng file: each as it came in, and as it left the program if the program has
// changed it. A comment says which of the two it is, and what the program decided.
type capture struct {
	path    string
	file    *os.File
	writer  *pcapgo.NgWriter // nil before the first packet: a writer begins with an interface
	devices map[string]int   // interfaces in the file, by the devices' names
}

func newCapture(path string) (*capture, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("--pcap: %w", err)
	}
	return &capture{path: path, file: file, devices: map[string]int{}}, nil
}

// captureSnap is how much of a packet the programs copy (SNAP in bpf/watch.h).
const captureSnap = 256

func (c *capture) write(e *monitorEvent) error {
	if len(e.Before) == 0 {
		return nil
	}
	out := cmp.Or(e.OutDevice, e.Device)
	changed := len(e.After) > 0
	if err := c.packet(e, e.Device, e.Before, changed, "before"); err != nil || !changed {
		return err
	}
	return c.packet(e, out, e.After, changed, "after")
}

func (c *capture) packet(e *monitorEvent, device string, data []byte, changed bool, which string) error {
	id, err := c.device(device)
	if err != nil {
		return fmt.Errorf("--pcap %s: %w", c.path, err)
	}
	length := len(data)
	if length == captureSnap { // it may be cut
		length = max(length, int(e.Length))
	}
	info := gopacket.CaptureInfo{Timestamp: e.Time, CaptureLength: len(data), Length: length, InterfaceIndex: id}
	if err := c.writer.WritePacketWithOptions(info, data, pcapgo.NgPacketOptions{Comments: []string{e.comment(changed, which)}}); err != nil {
		return fmt.Errorf("--pcap %s: %w", c.path, err)
	}
	return nil
}

func (e *monitorEvent) comment(changed bool, which string) string {
	words := []string{"waggle: " + e.Event, "hook " + e.Hook}
	if e.Service != "" {
		service := "service " + e.Service
		if e.Port != "" {
			service += ":" + e.Port
		}
		words = append(words, service)
	}
	if e.Backend != nil {
		words = append(words, "backend "+e.Backend.String())
	}
	if changed {
		words = append(words, which)
	}
	return strings.Join(words, ", ")
}

// device is the number of a device's interface in the file.
func (c *capture) device(name string) (int, error) {
	if id, ok := c.devices[name]; ok {
		return id, nil
	}
	face := pcapgo.NgInterface{Name: name, LinkType: linkType(name), SnapLength: captureSnap, TimestampResolution: 9}
	id, err := 0, error(nil)
	if c.writer == nil {
		options := pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "waggle " + version}}
		c.writer, err = pcapgo.NewNgWriterInterface(c.file, face, options)
	} else {
		id, err = c.writer.AddInterface(face)
	}
	c.devices[name] = id
	return id, err
}

// linkType returns the link type of a device's packets: those of tunnels begin with the IP header.
func linkType(device string) linktypes.LinkType {
	link, err := netlink.LinkByName(device)
	if err != nil || link.Attrs().EncapType == "ether" || link.Attrs().EncapType == "loopback" {
		return linktypes.LinkTypeEthernet
	}
	return linktypes.LinkTypeRaw
}

func (c *capture) flush() error {
	if c.writer == nil {
		return nil
	}
	if err := c.writer.Flush(); err != nil {
		return fmt.Errorf("--pcap %s: %w", c.path, err)
	}
	return nil
}

// close completes the file. A file without packets still gets an interface, because an empty file is no valid
// pcapng file.
func (c *capture) close() error {
	var err error
	if c.writer == nil {
		_, err = c.device("none")
	}
	return errors.Join(err, c.flush(), c.file.Close())
}
