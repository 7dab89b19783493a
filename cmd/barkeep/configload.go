package main

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

// Layers are where a configuration comes from besides the defaults.
type Layers struct {
	// File is the path of a YAML file, or empty.
	File string
	// Environ is the environment as os.Environ gives it.
	Environ []string
	// Flags are the values given on the command line, by key.
	Flags map[string]string
}

// setting is one key of the configuration.
type setting struct{ key, doc, value string }

// envIgnored are variables that begin as barkeep's do and are not settings: the file's path, and what tests are told.
var envIgnored = []string{"BARKEEP_CONFIG", "BARKEEP_TEST_DATA", "BARKEEP_TEST_SEED", "BARKEEP_BIN", "BARKEEP_CACHE", "BARKEEP_SUITES"}

// Load returns the configuration. An unknown key, a bad value and a combination that cannot work are errors that name
// the key.
func Load(l Layers) (Config, error) {
	cfg := defaultConfig()
	k := koanf.New(".")
	if l.File != "" {
		if err := k.Load(file.Provider(l.File), unfolded{yaml.Parser()}); err != nil {
			return cfg, fmt.Errorf("read configuration %s: %w", l.File, err)
		}
	}
	keys := envKeys()
	var unknown []string
	provider := env.Provider(".", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return l.Environ },
		TransformFunc: func(name, value string) (string, any) {
			if slices.Contains(envIgnored, name) {
				return "", nil
			}
			key, ok := keys[name]
			if !ok {
				unknown = append(unknown, name)
				return "", nil
			}
			return key, value
		},
	})
	if err := k.Load(provider, nil); err != nil {
		return cfg, fmt.Errorf("read environment: %w", err)
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return cfg, fmt.Errorf("environment: unknown setting %s", strings.Join(unknown, ", "))
	}
	for _, key := range slices.Sorted(maps.Keys(l.Flags)) {
		if err := k.Set(key, l.Flags[key]); err != nil {
			return cfg, fmt.Errorf("set %s: %w", key, err)
		}
	}
	if err := decode(k, &cfg); err != nil {
		return cfg, err
	}
	if err := cfg.readSecrets(); err != nil {
		return cfg, err
	}
	err := cfg.Validate()
	return cfg, err
}

// unfolded reads a key with dots, as the documentation writes it, like the maps that it stands for.
type unfolded struct{ koanf.Parser }

// Unmarshal implements koanf.Parser.
func (u unfolded) Unmarshal(text []byte) (map[string]any, error) {
	folded, err := u.Parser.Unmarshal(text)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	return out, unfold(folded, out, "")
}

func unfold(from, into map[string]any, prefix string) error {
	for key, value := range from {
		head, tail, dots := strings.Cut(key, ".")
		if dots {
			value = map[string]any{tail: value}
		}
		inner, isMap := value.(map[string]any)
		old, twice := into[head]
		outer, wasMap := old.(map[string]any)
		switch {
		case twice && (!isMap || !wasMap):
			return fmt.Errorf("%s is set twice", prefix+head)
		case !isMap:
			into[head] = value
			continue
		case !twice:
			outer = map[string]any{}
			into[head] = outer
		}
		if err := unfold(inner, outer, prefix+head+"."); err != nil {
			return err
		}
	}
	return nil
}

func decode(k *koanf.Koanf, cfg *Config) error {
	var meta mapstructure.Metadata
	err := k.UnmarshalWithConf("", cfg, koanf.UnmarshalConf{Tag: "koanf", DecoderConfig: &mapstructure.DecoderConfig{
		Result:           cfg,
		TagName:          "koanf",
		Metadata:         &meta,
		WeaklyTypedInput: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			mapstructure.StringToTimeDurationHookFunc(),
			refuseBareDuration,
			writeOctal,
			mapstructure.StringToSliceHookFunc(","),
		),
	}})
	if len(meta.Unused) > 0 {
		slices.Sort(meta.Unused)
		return fmt.Errorf("unknown setting %s", dotted(strings.Join(meta.Unused, ", ")))
	}
	if err == nil {
		return nil
	}
	return errors.New(dotted(strings.ReplaceAll(err.Error(), "\n", "; ")))
}

var mapKey = regexp.MustCompile(`\[(\w+)\]`)

// dotted writes sources[binance].rate as the user did.
func dotted(text string) string { return mapKey.ReplaceAllString(text, ".$1") }

// refuseBareDuration keeps a number without a unit from becoming nanoseconds.
func refuseBareDuration(from, to reflect.Type, value any) (any, error) {
	if to == reflect.TypeFor[[]string]() || to.String() != "time.Duration" || from == to {
		return value, nil
	}
	if number := reflect.ValueOf(value); number.CanInt() && number.Int() == 0 {
		return value, nil
	}
	return nil, fmt.Errorf("%v has no unit; write 10s, 500ms or 5m", value)
}

// writeOctal has a file mode that was read as a number in octal again; one that was not meant so does not pass Validate.
func writeOctal(_, to reflect.Type, value any) (any, error) {
	if number := reflect.ValueOf(value); to == reflect.TypeFor[octal]() && number.CanInt() {
		return fmt.Sprintf("0%o", number.Int()), nil
	}
	return value, nil
}

const envPrefix = "BARKEEP_"

// envName returns the variable that sets a key.
func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func envKeys() map[string]string {
	names := map[string]string{}
	for _, s := range settings() {
		names[envName(s.key)] = s.key
	}
	return names
}

// settings lists every key with its default and documentation, in the order of Config.
func settings() []setting {
	var all []setting
	cfg := defaultConfig()
	collect(reflect.ValueOf(cfg), "", &all)
	for _, name := range sourceNames {
		collect(reflect.ValueOf(Source{}), "sources."+name+".", &all)
	}
	return all
}

func collect(v reflect.Value, prefix string, into *[]setting) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		key := prefix + field.Tag.Get("koanf")
		switch field.Type.Kind() {
		case reflect.Struct:
			collect(v.Field(i), key+".", into)
		case reflect.Map:
		default:
			*into = append(*into, setting{key: key, doc: field.Tag.Get("doc"), value: defaultText(v.Field(i))})
		}
	}
}

func defaultText(v reflect.Value) string {
	if v.IsZero() {
		return ""
	}
	if list, ok := reflect.TypeAssert[[]string](v); ok {
		return strings.Join(list, ",")
	}
	return fmt.Sprint(v.Interface())
}
