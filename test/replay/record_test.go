// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// The module of waggle; and the one that kube-proxy is built from, which requires what kube-proxy's
// packages import and waggle does not.
const ownModule, kubernetesModule = "../..", "../kubernetes"

// recordedDir is where the packages are in waggle's module, for the compiler: there, what they share
// with waggle is not compiled anew.
const recordedDir = "recorded"

// proxiers are kube-proxy's packages whose tests have rows.
var proxiers = []string{"nftables", "iptables"}

// record runs kube-proxy's tests, and returns what they have called runPacketFlowTests with.
func record(dir string) ([]recordedCase, error) {
	overlay, err := writeOverlay(dir)
	if err != nil {
		return nil, err
	}
	modfile, err := writeModfile(dir)
	if err != nil {
		return nil, err
	}
	// The tests can't be run by this: their directory is in the overlay only.
	compile := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay="+overlay, "-mod=mod", "-modfile="+modfile, "-o", dir+"/")
	for _, pkg := range proxiers {
		compile.Args = append(compile.Args, "./"+recordedDir+"/"+pkg)
	}
	if out, err := compile.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile kube-proxy's tests: %w\n%s", err, out)
	}
	recording := filepath.Join(dir, "rows")
	for _, pkg := range proxiers {
		run := exec.Command(filepath.Join(dir, pkg+".test"), "-test.count=1")
		run.Dir, run.Env = dir, append(os.Environ(), "WAGGLE_RECORDING="+recording)
		if out, err := run.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("kube-proxy's own tests, %s: %w\n%s", pkg, err, out)
		}
	}
	return readRecording(recording)
}

// writeOverlay writes what kube-proxy's packages are compiled from to dir, and returns the name of
// the file that lists it for the compiler.
func writeOverlay(dir string) (string, error) {
	kubernetes, err := kubernetesSource()
	if err != nil {
		return "", err
	}
	here, err := filepath.Abs(recordedDir)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for _, pkg := range proxiers {
		changed := filepath.Join(dir, pkg)
		if err := os.Mkdir(changed, 0o755); err != nil {
			return "", err
		}
		from, to := filepath.Join(kubernetes, "pkg/proxy", pkg), filepath.Join(here, pkg)
		if err := overlayPackage(replace, from, to, changed); err != nil {
			return "", err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, list, 0o644)
}

// modfile is what `go mod edit -json` says of a go.mod.
type modfile struct {
	Require []module
	Replace []struct{ Old, New module }
}

type module struct{ Path, Version string }

func readModfile(dir string) (m modfile, err error) {
	edit := exec.Command("go", "mod", "edit", "-json")
	edit.Dir = dir
	out, err := edit.Output()
	if err != nil {
		return m, fmt.Errorf("%s/go.mod: %w", dir, err)
	}
	return m, json.Unmarshal(out, &m)
}

// writeModfile writes a go.mod with the requirements of both modules, in waggle's versions where it
// has one, and returns its name.
func writeModfile(dir string) (string, error) {
	own, err := readModfile(ownModule)
	if err != nil {
		return "", err
	}
	other, err := readModfile(kubernetesModule)
	if err != nil {
		return "", err
	}
	name, edit := filepath.Join(dir, "go.mod"), exec.Command("go", "mod", "edit")
	for _, m := range other.Require {
		if !slices.ContainsFunc(own.Require, func(have module) bool { return have.Path == m.Path }) {
			edit.Args = append(edit.Args, "-require="+m.Path+"@"+m.Version)
		}
	}
	for _, r := range other.Replace {
		edit.Args = append(edit.Args, "-replace="+r.Old.Path+"="+r.New.Path+"@"+r.New.Version)
	}
	if err := errors.Join(join(name, ownModule+"/go.mod"),
		join(filepath.Join(dir, "go.sum"), ownModule+"/go.sum", kubernetesModule+"/go.sum")); err != nil {
		return "", err
	}
	edit.Args = append(edit.Args, name)
	if out, err := edit.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go mod edit: %w\n%s", err, out)
	}
	return name, nil
}

// join writes the text of all files to one.
func join(to string, from ...string) error {
	var all []byte
	for _, name := range from {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		all = append(all, text...)
	}
	return os.WriteFile(to, all, 0o644)
}

// kubernetesSource is where the module k8s.io/kubernetes is.
func kubernetesSource() (string, error) {
	list := exec.Command("go", "mod", "download", "-json", "k8s.io/kubernetes")
	list.Dir = ownModule
	out, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", list, err, out)
	}
	var module struct{ Dir string }
	return module.Dir, json.Unmarshal(out, &module)
}

// overlayPackage puts a package of kube-proxy, with calls of the recorder, at a directory of the
// overlay. Changed files are written to dir.
func overlayPackage(replace map[string]string, from, to, dir string) error {
	files, err := instrument(from)
	if err != nil {
		return err
	}
	for name, ours := range map[string]string{"zz_case_test.go": "case_test.go", "zz_recorder_test.go": "testdata/recorder.go"} {
		if files[name], err = asPackage(ours, filepath.Base(from)); err != nil {
			return err
		}
	}
	for name, text := range files {
		at := filepath.Join(from, name)
		if text != nil {
			at = filepath.Join(dir, name)
			if err := os.WriteFile(at, text, 0o644); err != nil {
				return err
			}
		}
		replace[filepath.Join(to, name)] = at
	}
	return nil
}

func readRecording(name string) (cases []recordedCase, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var c recordedCase
		switch err := d.Decode(&c); {
		case errors.Is(err, io.EOF):
			return cases, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		cases = append(cases, c)
	}
}
