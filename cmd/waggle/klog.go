// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// redirectKlog makes the Kubernetes libraries, which log with klog, write to the agent's log.
func redirectKlog(log *logrus.Entry) { klog.SetLogger(logr.New(klogSink{log})) }

// klogSink is a logr.LogSink on logrus. The libraries' informational messages are debug messages
// here. Most of their errors are about operations that they repeat.
type klogSink struct{ log *logrus.Entry }

func (klogSink) Init(logr.RuntimeInfo) {}

func (s klogSink) Enabled(level int) bool {
	return level == 0 && s.log.Logger.IsLevelEnabled(logrus.DebugLevel) || s.log.Logger.IsLevelEnabled(logrus.TraceLevel)
}

func (s klogSink) Info(level int, message string, pairs ...any) {
	as := logrus.DebugLevel
	if level > 0 {
		as = logrus.TraceLevel
	}
	s.with(pairs).Log(as, message)
}

func (s klogSink) Error(err error, message string, pairs ...any) {
	log := s.with(pairs)
	if err != nil {
		log = log.WithError(err)
	}
	log.Warn(message)
}

func (s klogSink) WithValues(pairs ...any) logr.LogSink { return klogSink{s.with(pairs)} }

func (s klogSink) WithName(name string) logr.LogSink {
	return klogSink{s.log.WithField("logger", name)}
}

func (s klogSink) with(pairs []any) *logrus.Entry {
	fields := logrus.Fields{}
	for i := 0; i+1 < len(pairs); i += 2 {
		fields[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return s.log.WithFields(fields)
}
