// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"testing"

	"k8s.io/kube-proxy/config/v1alpha1"
)

// TestInternal: of a configuration whose every field is set, each field of the internal type is set,
// so none was forgotten, nor one that a later version of kube-proxy adds.
func TestInternal(t *testing.T) {
	for _, mode := range []v1alpha1.ProxyMode{"iptables", "ipvs", "nftables"} {
		var full v1alpha1.KubeProxyConfiguration
		fill(reflect.ValueOf(&full).Elem())
		full.Mode = mode
		converted := reflect.ValueOf(toInternal(&full)).Elem()
		for i := range converted.NumField() {
			if field := converted.Type().Field(i); field.Name != "TypeMeta" {
				expectFull(t, string(mode)+": "+field.Name, converted.Field(i))
			}
		}
	}
}

// fill sets everything that a value has.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		v.SetUint(1)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(1)
	}
}

func expectFull(t *testing.T, name string, v reflect.Value) {
	if v.Kind() != reflect.Struct {
		if v.IsZero() {
			t.Errorf("%s is not set", name)
		}
		return
	}
	for i := range v.NumField() {
		if field := v.Type().Field(i); field.IsExported() {
			expectFull(t, name+"."+field.Name, v.Field(i))
		}
	}
}
