// SPDX-License-Identifier: Apache-2.0

package memapi

import (
	"fmt"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/client-go/kubernetes/scheme"
	restwatch "k8s.io/client-go/rest/watch"
)

var versions = map[string]schema.GroupVersion{
	"services":       corev1.SchemeGroupVersion,
	"nodes":          corev1.SchemeGroupVersion,
	"endpointslices": discoveryv1.SchemeGroupVersion,
	"servicecidrs":   networkingv1.SchemeGroupVersion,
}

// Serve answers requests until the listener is closed.
func (s *Store) Serve(l net.Listener) error { return http.Serve(l, s) }

// ServeHTTP implements http.Handler.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	last := parts[len(parts)-1]
	query := r.URL.Query()
	switch {
	case last == "readyz" || last == "livez" || last == "healthz":
		fmt.Fprint(w, "ok")
	case last == "version":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"major":"1","minor":"36","gitVersion":"v1.36.3"}`)
	case r.Method != http.MethodGet:
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden)
	case s.kinds[last] == nil:
		s.get(w, r, parts)
	case query.Get("sendInitialEvents") != "":
		refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid) // clients list instead
	case query.Get("watch") != "":
		s.serveWatch(w, r, last)
	default:
		s.serveList(w, r, last)
	}
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d}`, reason, code)
}

// selection returns the filter of a request.
func selection(r *http.Request) (func(Object) bool, error) {
	byLabel, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		return nil, err
	}
	byField, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err != nil {
		return nil, err
	}
	return func(o Object) bool {
		return byLabel.Matches(labels.Set(o.GetLabels())) &&
			byField.Matches(fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()})
	}, nil
}

// media returns the best serializer that a client accepts.
func media(r *http.Request) runtime.SerializerInfo {
	known := scheme.Codecs.SupportedMediaTypes()
	for accepted := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(accepted), ";")
		if info, ok := runtime.SerializerInfoForMediaType(known, name); ok && info.StreamSerializer != nil {
			return info
		}
	}
	info, _ := runtime.SerializerInfoForMediaType(known, runtime.ContentTypeJSON)
	return info
}

func (s *Store) get(w http.ResponseWriter, r *http.Request, parts []string) {
	name := path.Base(r.URL.Path)
	if len(parts) > 1 && s.kinds[parts[len(parts)-2]] != nil {
		resource := parts[len(parts)-2]
		found, _ := s.list(resource, func(o Object) bool { return o.GetName() == name })
		if len(found) > 0 {
			s.write(w, r, resource, found[0])
			return
		}
	}
	refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
}

func (s *Store) write(w http.ResponseWriter, r *http.Request, resource string, o runtime.Object) {
	info := media(r)
	w.Header().Set("Content-Type", info.MediaType)
	_ = scheme.Codecs.EncoderForVersion(info.Serializer, versions[resource]).Encode(o, w)
}

func (s *Store) serveList(w http.ResponseWriter, r *http.Request, resource string) {
	match, err := selection(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
		return
	}
	objects, version := s.list(resource, match)
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatUint(version, 10)}
	var list runtime.Object
	switch resource {
	case "services":
		l := &corev1.ServiceList{ListMeta: meta}
		for _, o := range objects {
			l.Items = append(l.Items, *o.(*corev1.Service))
		}
		list = l
	case "nodes":
		l := &corev1.NodeList{ListMeta: meta}
		for _, o := range objects {
			l.Items = append(l.Items, *o.(*corev1.Node))
		}
		list = l
	case "endpointslices":
		l := &discoveryv1.EndpointSliceList{ListMeta: meta}
		for _, o := range objects {
			l.Items = append(l.Items, *o.(*discoveryv1.EndpointSlice))
		}
		list = l
	default:
		list = &networkingv1.ServiceCIDRList{ListMeta: meta}
	}
	s.write(w, r, resource, list)
}

func (s *Store) serveWatch(w http.ResponseWriter, r *http.Request, resource string) {
	match, err := selection(r)
	version, notNumber := strconv.ParseUint(r.URL.Query().Get("resourceVersion"), 10, 64)
	if err != nil || notNumber != nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
		return
	}
	info := media(r)
	contentType := info.MediaType
	if contentType != runtime.ContentTypeJSON {
		contentType += ";stream=watch"
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	flush := w.(http.Flusher).Flush
	flush()
	frames := info.StreamSerializer.Framer.NewFrameWriter(w)
	encoder := restwatch.NewEncoder(
		streaming.NewEncoder(frames, scheme.Codecs.EncoderForVersion(info.StreamSerializer.Serializer, versions[resource])),
		scheme.Codecs.EncoderForVersion(info.Serializer, versions[resource]))
	for {
		events, more := s.since(resource, version)
		for _, e := range events {
			version = e.version
			if !match(e.Object.(Object)) {
				continue
			}
			if encoder.Encode(&e.Event) != nil {
				return
			}
		}
		if len(events) > 0 {
			flush()
		}
		select {
		case <-r.Context().Done():
			return
		case <-more:
		}
	}
}
