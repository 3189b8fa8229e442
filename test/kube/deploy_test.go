// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/apiserver"
)

// deployed creates what deploy/waggle.yaml holds, and returns the service account that the agents
// run as.
func (s *setup) deployed(t *testing.T) apiserver.User {
	t.Helper()
	s.deploy(t, "waggle.yaml")
	user, err := s.cp.ServiceAccount(s.ctx, metav1.NamespaceSystem, "waggle")
	check(t, err)
	return user
}

// deploy creates what a file in deploy/ holds.
func (s *setup) deploy(t *testing.T, name string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "deploy", name))
	check(t, err)
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if runtime.IsMissingKind(err) {
			continue // the comment at the head of the file
		}
		check(t, err)
		check(t, s.create(object))
	}
}

func (s *setup) create(object runtime.Object) (err error) {
	c, opts := s.cp.Client(), metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	switch o := object.(type) {
	case *corev1.ConfigMap:
		_, err = c.CoreV1().ConfigMaps(o.Namespace).Create(s.ctx, o, opts)
	case *corev1.Service:
		_, err = c.CoreV1().Services(o.Namespace).Create(s.ctx, o, opts)
	case *corev1.ServiceAccount:
		_, err = c.CoreV1().ServiceAccounts(o.Namespace).Create(s.ctx, o, opts)
	case *rbacv1.ClusterRole:
		_, err = c.RbacV1().ClusterRoles().Create(s.ctx, o, opts)
	case *rbacv1.ClusterRoleBinding:
		_, err = c.RbacV1().ClusterRoleBindings().Create(s.ctx, o, opts)
	case *rbacv1.Role:
		_, err = c.RbacV1().Roles(o.Namespace).Create(s.ctx, o, opts)
	case *rbacv1.RoleBinding:
		_, err = c.RbacV1().RoleBindings(o.Namespace).Create(s.ctx, o, opts)
	case *appsv1.DaemonSet:
		_, err = c.AppsV1().DaemonSets(o.Namespace).Create(s.ctx, o, opts)
	default:
		err = fmt.Errorf("deploy: no test knows %T", object)
	}
	return err
}

// TestDeployment has the API server take the manifest, and runs agents with its rights: they need
// no more, and one of them has used each.
func TestDeployment(t *testing.T) {
	s := newSetup(t)
	for _, a := range s.newAgents(t) {
		check(t, a.Start())
		st, err := status.Read(a.RunDir)
		check(t, err)
		for _, p := range st.Problems {
			t.Errorf("%s: %s: %s", a.Node.Name, p.Object, p.Message)
		}
		if st.Blind != nil {
			t.Errorf("%s: blind: %s", a.Node.Name, st.Blind.Why)
		}
	}
	for _, node := range s.Nodes {
		err := wait.PollUntilContextTimeout(s.ctx, 100*time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
			events, err := s.cp.Client().EventsV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{})
			if err != nil {
				return false, err
			}
			for _, e := range events.Items {
				if e.Reason == "Starting" && e.Regarding.Kind == "Node" && e.Regarding.Name == node.Name {
					return true, nil
				}
			}
			return false, nil
		})
		if err != nil {
			t.Errorf("no event on %s: %v", node.Name, err)
		}
	}
}
