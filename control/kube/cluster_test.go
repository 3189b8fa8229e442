// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
)

// cluster is what the API servers of one cluster share: objects, and a certificate. It implements
// lists, watches, selectors and events of the API, for the few kinds that the source follows.
type cluster struct {
	t       *testing.T
	ca, key []byte

	mu       sync.Mutex
	version  int
	objects  map[string]map[string]apiObject // by kind and name
	watchers map[*watcher]bool
	refused  map[string]int // status by kind
	unready  bool
	events   []eventsv1.Event
}

type apiObject interface {
	runtime.Object
	metav1.Object
}

type watcher struct {
	kind   string
	takes  func(apiObject) bool
	events chan watch.Event
}

// certNames are the names in the certificate. The second is an address such as 10.96.0.1.
var certNames = []string{inClusterName, "10.96.0.1"}

func newCluster(t *testing.T) *cluster {
	ca, key, err := cert.GenerateSelfSignedCertKey(certNames[0], []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(certNames[1])}, nil)
	must(t, err)
	return &cluster{
		t: t, ca: ca, key: key,
		objects:  map[string]map[string]apiObject{services: {}, endpointSlices: {}, nodes: {}, serviceCIDRs: {}},
		watchers: map[*watcher]bool{},
		refused:  map[string]int{},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func nameOf(o apiObject) string { return o.GetNamespace() + "/" + o.GetName() }

func kindOfObject(o any) string {
	switch o.(type) {
	case *v1.Service:
		return services
	case *discovery.EndpointSlice:
		return endpointSlices
	case *v1.Node:
		return nodes
	case *networking.ServiceCIDR:
		return serviceCIDRs
	}
	panic(fmt.Sprintf("%T", o))
}

// put creates or replaces objects.
func (c *cluster) put(all ...apiObject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range all {
		kind := kindOfObject(o)
		before := c.objects[kind][nameOf(o)]
		o = c.stamp(o)
		c.objects[kind][nameOf(o)] = o
		c.notify(kind, before, o)
	}
}

func (c *cluster) remove(o apiObject) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind := kindOfObject(o)
	before := c.objects[kind][nameOf(o)]
	delete(c.objects[kind], nameOf(o))
	c.notify(kind, c.stamp(before), nil)
}

func (c *cluster) stamp(o apiObject) apiObject {
	c.version++
	o = o.DeepCopyObject().(apiObject)
	o.SetResourceVersion(fmt.Sprint(c.version))
	gvks, _, err := scheme.Scheme.ObjectKinds(o)
	must(c.t, err)
	o.GetObjectKind().SetGroupVersionKind(gvks[0])
	return o
}

// notify sends each watcher the change of an object that its selector takes. An object that it no longer takes
// is sent as deleted.
func (c *cluster) notify(kind string, old, new apiObject) {
	for w := range c.watchers {
		had, has := old != nil && w.takes(old), new != nil && w.takes(new)
		switch {
		case w.kind != kind || !had && !has:
		case !has:
			gone := old
			if new != nil {
				gone = new
			}
			w.events <- watch.Event{Type: watch.Deleted, Object: gone}
		case had:
			w.events <- watch.Event{Type: watch.Modified, Object: new}
		default:
			w.events <- watch.Event{Type: watch.Added, Object: new}
		}
	}
}

// refuse makes all requests for a kind fail with a status; 0 ends this.
func (c *cluster) refuse(kind string, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused[kind] = status
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := kindOf(r)
	c.mu.Lock()
	refused, unready := c.refused[kind], c.unready
	c.mu.Unlock()
	query := r.URL.Query()
	switch {
	case r.URL.Path == "/readyz" && unready:
		http.Error(w, "etcd failed", http.StatusInternalServerError)
	case r.URL.Path == "/readyz":
		fmt.Fprint(w, "ok")
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/events"):
		c.takeEvent(w, r)
	case refused != 0:
		http.Error(w, "refused", refused)
	case kind == "":
		http.NotFound(w, r)
	case query.Get("watch") != "":
		c.watch(w, r, kind, selected(query))
	default:
		c.list(w, kind, selected(query))
	}
}

func selected(query url.Values) func(apiObject) bool {
	byLabel, err1 := labels.Parse(query.Get("labelSelector"))
	byField, err2 := fields.ParseSelector(query.Get("fieldSelector"))
	return func(o apiObject) bool {
		return err1 == nil && err2 == nil && byLabel.Matches(labels.Set(o.GetLabels())) &&
			byField.Matches(fields.Set{"metadata.name": o.GetName()})
	}
}

func (c *cluster) takeEvent(w http.ResponseWriter, r *http.Request) {
	var e eventsv1.Event
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender is gone
	}
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw, nil, &e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.events = append(c.events, e)
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(&e)
}

func (c *cluster) list(w http.ResponseWriter, kind string, takes func(apiObject) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	items := []apiObject{}
	for _, o := range c.objects[kind] {
		if takes(o) {
			items = append(items, o)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "List", "apiVersion": "v1", "items": items, "metadata": map[string]any{"resourceVersion": fmt.Sprint(c.version)},
	})
}

// watch begins with all objects, if sendInitialEvents asks for that, or at a version that a list
// has returned.
func (c *cluster) watch(w http.ResponseWriter, r *http.Request, kind string, takes func(apiObject) bool) {
	me := &watcher{kind: kind, takes: takes, events: make(chan watch.Event, 1000)}
	c.mu.Lock()
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, o := range c.objects[kind] {
			if takes(o) {
				me.events <- watch.Event{Type: watch.Added, Object: o}
			}
		}
		me.events <- watch.Event{Type: watch.Bookmark, Object: c.bookmark(kind)}
	} else if r.URL.Query().Get("resourceVersion") != fmt.Sprint(c.version) {
		c.mu.Unlock()
		http.Error(w, "too old", http.StatusGone)
		return
	}
	c.watchers[me] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.watchers, me)
		c.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/json")
	out := http.NewResponseController(w)
	_ = out.Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-me.events:
			_ = json.NewEncoder(w).Encode(map[string]any{"type": e.Type, "object": e.Object})
			_ = out.Flush()
		}
	}
}

func (c *cluster) bookmark(kind string) apiObject {
	o := map[string]apiObject{
		services: &v1.Service{}, endpointSlices: &discovery.EndpointSlice{}, nodes: &v1.Node{}, serviceCIDRs: &networking.ServiceCIDR{},
	}[kind]
	o.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	version := c.version
	o = c.stamp(o)
	c.version = version
	o.SetResourceVersion(fmt.Sprint(version))
	return o
}

func (c *cluster) tls() *tls.Config {
	pair, err := tls.X509KeyPair(c.ca, c.key)
	must(c.t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// server is one API server of a cluster.
type server struct {
	*httptest.Server
	address string // host:port
}

// serve starts an API server, at an address or at a new one.
func (c *cluster) serve(address string) *server {
	c.t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	must(c.t, err)
	s := httptest.NewUnstartedServer(c)
	must(c.t, s.Listener.Close())
	s.Listener = l
	s.EnableHTTP2 = true
	s.TLS = c.tls()
	s.StartTLS()
	srv := &server{s, l.Addr().String()}
	c.t.Cleanup(srv.stop)
	return srv
}

// stop ends a server as its death would: with all its connections.
func (s *server) stop() {
	s.CloseClientConnections()
	s.Listener.Close()
	s.Config.Close()
}

// kubeconfig returns a file with the address of a server.
func (c *cluster) kubeconfig(address string) string {
	c.t.Helper()
	dir := c.t.TempDir()
	ca := filepath.Join(dir, "ca.crt")
	must(c.t, os.WriteFile(ca, c.ca, 0o600))
	file := filepath.Join(dir, "kubeconfig")
	must(c.t, os.WriteFile(file, fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Config","current-context":"c",
		"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}], "users":[{"name":"u","user":{"token":"secret"}}],
		"clusters":[{"name":"c","cluster":{"server":"https://%s","certificate-authority":%q}}]}`, address, ca), 0o600))
	return file
}

// pod returns what the environment of a pod contains.
func (c *cluster) pod(host string) func() (*rest.Config, error) {
	return func() (*rest.Config, error) {
		return &rest.Config{Host: "https://" + host, BearerToken: "secret", TLSClientConfig: rest.TLSClientConfig{CAData: c.ca}}, nil
	}
}

// deadAddress returns an address that refuses connections.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// hangingAddress returns an address that accepts connections, and sends nothing on them.
func hangingAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}
