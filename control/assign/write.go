// SPDX-License-Identifier: Apache-2.0

package assign

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/control/pools"
)

// fieldManager is who the API server notes to have written the fields.
const fieldManager = LeaseName

// write replaces the addresses of a Service, and their record, if it is as it was when that was planned. If it isn't, it
// is seen soon and planned again.
func (t *term) write(ctx context.Context, s *v1.Service, c pools.Change) error {
	patch, err := patchOf(s, c, time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, t.pace.request)
	defer cancel()
	written, err := t.opts.Client.CoreV1().Services(s.Namespace).Patch(ctx, s.Name, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("status of Service %s: %w", c.NamespacedName, err)
	}
	t.writing.Lock()
	t.written[c.NamespacedName] = written
	t.writing.Unlock()
	t.opts.Log.WithField("service", c.String()).WithField("addresses", pools.Record(c.Addresses)).Info("addresses of a Service")
	return nil
}

// patchOf is the patch of a status.
func patchOf(s *v1.Service, c pools.Change, now time.Time) ([]byte, error) {
	ingress := []v1.LoadBalancerIngress{}
	for _, h := range c.Addresses {
		ingress = append(ingress, ingressOf(s, h.Addr.String()))
	}
	condition := metav1.Condition{
		Type: pools.ConditionType, Status: metav1.ConditionTrue, Reason: pools.ReasonAllocated,
		Message: pools.Record(c.Addresses), ObservedGeneration: s.Generation,
		LastTransitionTime: metav1.NewTime(now),
	}
	before := pools.Condition(s)
	switch {
	case c.Adopted && before != nil: // the addresses are as they were: only their pools have other names
		condition.Reason, condition.LastTransitionTime = before.Reason, metav1.NewTime(before.Since)
	case c.Adopted:
		condition.Reason = pools.ReasonAdopted
	case len(c.Addresses) == 0:
		condition.Status, condition.Reason = metav1.ConditionFalse, "Released"
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": s.UID, "resourceVersion": s.ResourceVersion},
		"status": map[string]any{
			"loadBalancer": map[string]any{"ingress": ingress},
			"conditions":   []metav1.Condition{condition},
		},
	})
}

// ingressOf keeps what others have noted beside an address.
func ingressOf(s *v1.Service, ip string) v1.LoadBalancerIngress {
	for _, i := range s.Status.LoadBalancer.Ingress {
		if i.IP == ip {
			return i
		}
	}
	return v1.LoadBalancerIngress{IP: ip, IPMode: ptr.To(v1.LoadBalancerIPModeVIP)}
}
