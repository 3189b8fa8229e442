// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

var render = flag.String("render", "", "draw each dashboard into this directory, as an SVG file, by gnuplot")

// panel is one of a dashboard, as Grafana has it. Places are in its units, 24 to a row.
type panel struct {
	Title, Type string
	GridPos     struct{ H, W, X, Y float64 }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []struct{ Expr, LegendFormat string }
}

// line is a series of a panel: times in seconds from the beginning.
type line struct {
	name   string
	points [][2]float64
}

// TestRender draws what the dashboards show of an agent whose load changes for a minute. Grafana draws better; this
// shows that there is something to see in each panel.
func TestRender(t *testing.T) {
	if *render == "" {
		t.Skip("only with -render")
	}
	needs(t, "gnuplot")
	l := newLab(t)
	begin := time.Now()
	for time.Since(begin) < 90*time.Second {
		l.work()
		for range 1 + int(time.Since(begin)/(20*time.Second))%3*20 { // load that has a shape
			l.laptop.Get(topo.Request{To: l.nodePort(30080)})
		}
		time.Sleep(100 * time.Millisecond)
	}
	end := time.Now()
	files, err := filepath.Glob("../../deploy/grafana/*.json")
	check(t, err)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		check(t, err)
		var board struct {
			Title  string
			Panels []panel
		}
		check(t, json.Unmarshal(raw, &board))
		picture := filepath.Join(*render, "dashboard-"+strings.TrimSuffix(filepath.Base(file), ".json")+".svg")
		check(t, l.draw(board.Panels, begin, end, picture))
		t.Log(picture)
	}
}

// draw draws the panels at their places.
func (l *lab) draw(panels []panel, begin, end time.Time, picture string) error {
	height := 0.0
	for _, p := range panels {
		height = max(height, p.GridPos.Y+p.GridPos.H)
	}
	var script strings.Builder
	fmt.Fprintf(&script, "set terminal svg size 1200,%.0f background rgb 'white' font 'sans,10'\nset output '%s'\nset multiplot\n", height*32, picture)
	dir := l.t.TempDir()
	for i, p := range panels {
		var lines []line
		for _, target := range p.Targets {
			some, err := l.askRange(target.Expr, target.LegendFormat, begin, end)
			if err != nil {
				return fmt.Errorf("panel %s: %w", p.Title, err)
			}
			lines = append(lines, some...)
		}
		fmt.Fprintf(&script, "unset label\nunset ylabel\nset origin %g,%g\nset size %g,%g\nset title \"%s\" noenhanced\n",
			p.GridPos.X/24, 1-(p.GridPos.Y+p.GridPos.H)/height, p.GridPos.W/24, p.GridPos.H/height, p.Title)
		if p.Type != "timeseries" {
			script.WriteString(asText(lines))
			continue
		}
		if err := plot(&script, filepath.Join(dir, strconv.Itoa(i)), lines, p.FieldConfig.Defaults.Unit); err != nil {
			return err
		}
	}
	script.WriteString("unset multiplot\n")
	cmd := exec.Command("gnuplot")
	cmd.Stdin = strings.NewReader(script.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("gnuplot: %w: %s", err, out)
	}
	return nil
}

// asText shows the last values.
func asText(lines []line) string {
	var texts []string
	for _, s := range lines[:min(len(lines), 8)] {
		texts = append(texts, fmt.Sprintf("%s %g", s.name, s.points[len(s.points)-1][1]))
	}
	if len(texts) == 0 {
		texts = []string{"no data"}
	}
	return fmt.Sprintf("set label 1 \"%s\" at graph 0.5,0.5 center noenhanced\nunset border\nunset tics\nplot [0:1][0:1] NaN notitle\nset border\nset tics\n",
		strings.ReplaceAll(strings.Join(texts, "\\n"), `"`, `'`))
}

func plot(script *strings.Builder, file string, lines []line, unit string) error {
	if len(lines) == 0 {
		script.WriteString(asText(nil))
		return nil
	}
	var plots []string
	for i, s := range lines {
		var data strings.Builder
		for _, p := range s.points {
			fmt.Fprintf(&data, "%g %g\n", p[0], p[1])
		}
		name := fmt.Sprintf("%s-%d", file, i)
		if err := os.WriteFile(name, []byte(data.String()), 0o600); err != nil {
			return err
		}
		plots = append(plots, fmt.Sprintf("'%s' with lines lw 1.5 title \"%s\" noenhanced", name, s.name))
	}
	fmt.Fprintf(script, "set ylabel \"%s\" noenhanced\nset yrange [0:*]\nset key outside below\nset grid\nplot %s\n", unit, strings.Join(plots, ", "))
	return nil
}

// askRange has promtool ask for the course of a query.
func (l *lab) askRange(expr, legend string, begin, end time.Time) ([]line, error) {
	out, err := l.net.Nodes[0].Command("promtool", "query", "range", "-o", "json", "--step=3s",
		fmt.Sprintf("--start=%d", begin.Unix()), fmt.Sprintf("--end=%d", end.Unix()), "http://"+prometheusAt, grafanaVariables.Replace(expr)).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	var series []struct {
		Metric map[string]string
		Values [][2]any
	}
	if err := json.Unmarshal(out, &series); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	var lines []line
	for _, s := range series {
		one := line{name: legendOf(legend, s.Metric)}
		for _, v := range s.Values {
			at, _ := v[0].(float64)
			value, err := strconv.ParseFloat(fmt.Sprint(v[1]), 64)
			if err == nil {
				one.points = append(one.points, [2]float64{at - float64(begin.Unix()), value})
			}
		}
		lines = append(lines, one)
	}
	slices.SortFunc(lines, func(a, b line) int { return strings.Compare(a.name, b.name) })
	return lines, nil
}

var legendLabel = regexp.MustCompile(`{{ *[a-z_]+ *}}`)

// legendOf is Grafana's legend of a series.
func legendOf(format string, labels map[string]string) string {
	if format != "" && !strings.Contains(format, "__auto") {
		return legendLabel.ReplaceAllStringFunc(format, func(label string) string {
			return labels[strings.Trim(label, "{} ")] // empty, if the series has no such label
		})
	}
	var parts []string
	for name, value := range labels {
		if name != "__name__" && name != "job" && name != "instance" {
			parts = append(parts, value)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}
