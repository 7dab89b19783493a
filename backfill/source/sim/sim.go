package sim

import (
	"context"
	"time"

	"barkeep/backfill/source"
	"barkeep/internal/market"
)

// Name is the source's name.
const Name = "sim"

// PageLimit is the default of Config.PageLimit: what a record can hold.
const PageLimit = 8192

// Config configures a Source. The zero value is the market as it is served.
type Config struct {
	// FinalityLag and AbsenceLag override the lags, which are zero.
	FinalityLag, AbsenceLag time.Duration
	// PageLimit is the most bars in one answer; zero means the package's PageLimit.
	PageLimit int
	// Latency is how long each Fetch takes; zero means none.
	Latency time.Duration
	// Now tells the time; nil means time.Now.
	Now func() time.Time
}

// Source is the simulated market. It is safe for concurrent use.
type Source struct {
	config Config
	coins  map[string]*Coin
}

// New returns a Source.
func New(config Config) *Source {
	if config.PageLimit <= 0 {
		config.PageLimit = PageLimit
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	s := &Source{config: config, coins: map[string]*Coin{}}
	for _, coin := range Coins() {
		s.coins[coin.Symbol()] = &coin
	}
	return s
}

// Name returns "sim".
func (*Source) Name() string { return Name }

// Info declares all timeframes. The market answers as a sparse one: it is exact, what is missing is absent.
func (s *Source) Info() source.Info {
	return source.Info{
		Native: market.Timeframes(), PageLimit: s.config.PageLimit, PrefixOnly: true, Local: true, Poll: time.Second,
		Earliest: day(2015, time.January, 1, 0),
		Finality: source.Lag{Default: s.config.FinalityLag}, Absence: source.Lag{Default: s.config.AbsenceLag},
	}
}

// Instruments returns Coins as instruments.
func (*Source) Instruments(context.Context) ([]source.Instrument, error) {
	coins := Coins()
	list := make([]source.Instrument, len(coins))
	for i, c := range coins {
		list[i] = source.Instrument{
			VendorID: c.Symbol(), Symbol: c.Symbol(), Base: c.Base, Quote: c.Quote, Listed: c.Listed, Delisted: c.Delisted,
		}
	}
	return list, nil
}

// Fetch computes the bars of q that open before now.
func (s *Source) Fetch(ctx context.Context, q source.Query) (source.Answer, error) {
	info := s.Info()
	if err := info.Check(Name, &q); err != nil {
		return source.Answer{}, err
	}
	coin := s.coins[q.VendorID]
	if coin == nil {
		return source.Answer{}, source.UnknownInstrument(Name, q.VendorID)
	}
	sent := market.FromTime(s.config.Now())
	if err := wait(ctx, s.config.Latency); err != nil {
		return source.Answer{}, &source.Error{Source: Name, Op: "fetch " + q.VendorID, Err: err}
	}
	r := q.Range
	r.End = min(r.End, sent)
	if r.Empty() {
		return source.Answer{Sent: sent}, nil
	}
	tf := q.Series.Timeframe
	bars := coin.Bars(make([]market.Bar, 0, tf.Count(r)), tf, r)
	return source.Answer{Bars: bars, Sent: sent}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
