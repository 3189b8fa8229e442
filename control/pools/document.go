// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The kinds of documents.
const (
	KindIPAddressPool        = "IPAddressPool"
	KindL2Advertisement      = "L2Advertisement"
	KindCiliumPool           = "CiliumLoadBalancerIPPool"
	KindCiliumL2Announcement = "CiliumL2AnnouncementPolicy"
)

// The API groups of the documents.
const (
	GroupMetalLB = "metallb.io"
	GroupCilium  = "cilium.io"
)

// Kind is a kind of document in one version of the API.
type Kind struct {
	schema.GroupVersionKind
	Resource   string // as an API server has it in its paths
	Namespaced bool
	empty      func() Document
}

// Kinds are what this package reads. Of a kind in several versions the first is preferred.
var Kinds = []Kind{
	kind[IPAddressPool](GroupMetalLB, "v1beta1", KindIPAddressPool, "ipaddresspools", true),
	kind[L2Advertisement](GroupMetalLB, "v1beta1", KindL2Advertisement, "l2advertisements", true),
	kind[CiliumPool](GroupCilium, "v2", KindCiliumPool, "ciliumloadbalancerippools", false),
	kind[CiliumPool](GroupCilium, "v2alpha1", KindCiliumPool, "ciliumloadbalancerippools", false),
	kind[CiliumL2Announcement](GroupCilium, "v2alpha1", KindCiliumL2Announcement, "ciliuml2announcementpolicies", false),
}

func kind[T any, P interface {
	*T
	Document
}](group, version, name, resource string, namespaced bool) Kind {
	return Kind{
		GroupVersionKind: schema.GroupVersionKind{Group: group, Version: version, Kind: name},
		Resource:         resource,
		Namespaced:       namespaced,
		empty:            func() Document { return P(new(T)) },
	}
}

// New makes an empty document.
func (k Kind) New() Document { return k.empty() }

// KindOf finds a kind that this package reads.
func KindOf(apiVersion, name string) (Kind, bool) {
	for _, k := range Kinds {
		if k.Kind == name && k.GroupVersion().String() == apiVersion {
			return k, true
		}
	}
	return Kind{}, false
}

// Document is an object of one of the Kinds. Once decoded it is not modified.
type Document interface {
	metav1.Object
	runtime.Object
	// Validate finds the fields that can't be meant. It may be called at any time.
	Validate() field.ErrorList
	// Ref names the document.
	Ref() Ref
}

// Ref names an object, for people and as a key. Namespace is empty where there is none.
type Ref struct{ Kind, Namespace, Name string }

// String is the kind, and the name as kubectl spells it with -A.
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// ParseRef reads what String has written.
func ParseRef(s string) (Ref, bool) {
	kind, name, ok := strings.Cut(s, " ")
	if !ok || kind == "" || name == "" || strings.Contains(name, " ") {
		return Ref{}, false
	}
	namespace, base, namespaced := strings.Cut(name, "/")
	if !namespaced {
		return Ref{Kind: kind, Name: name}, true
	}
	return Ref{Kind: kind, Namespace: namespace, Name: base}, namespace != "" && base != "" && !strings.Contains(base, "/")
}

// Problem is what is wrong with a document, or keeps a Service from what it asks for.
type Problem struct {
	Object Ref
	Field  string // its path; empty: the object as a whole
	// Reason is for an event on the Service that the problem is of; empty for documents.
	Reason  string
	Message string
}
