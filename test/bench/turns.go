// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
)

// subject is measured in turns with others, so that a disturbance affects them
// all.
type subject struct {
	name    string
	measure func() (float64, error)
	runs    []float64
}

// takeTurns measures each subject so many times, after a first time that is
// discarded.
func takeTurns(times int, subjects []*subject) error {
	for turn := range times + 1 {
		for _, s := range subjects {
			value, err := s.measure()
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if turn > 0 {
				s.runs = append(s.runs, value)
			}
		}
	}
	return nil
}

func (s *subject) median() float64 { return median(s.runs) }

// beyond returns how much longer it takes than another subject.
func (s *subject) beyond(other *subject) float64 { return s.median() - other.median() }

// less returns the runs less the median of another subject.
func (s *subject) less(other *subject) (runs []float64) {
	for _, v := range s.runs {
		runs = append(runs, v-other.median())
	}
	return runs
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted)%2 == 0 {
		return (sorted[len(sorted)/2-1] + sorted[len(sorted)/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// quantile returns the value below which that fraction of the values is.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
