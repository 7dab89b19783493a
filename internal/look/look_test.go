package look_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"barkeep/internal/look"
)

// counter answers the number of the question, each when it is let go.
type counter struct {
	mu    sync.Mutex
	begun int
	let   chan error
}

func (c *counter) ask(ctx context.Context) (int, error) {
	c.mu.Lock()
	c.begun++
	number := c.begun
	c.mu.Unlock()
	select {
	case err := <-c.let:
		return number, err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

type answer struct {
	number int
	err    error
}

// asking calls a method of Shared in a goroutine.
func asking(ctx context.Context, method func(context.Context, func(context.Context) (int, error)) (int, error), c *counter) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		number, err := method(ctx, c.ask)
		out <- answer{number, err}
	}()
	synctest.Wait()
	return out
}

// TestFresh: who comes while a question is under way is given none but the answer to one that begins afterwards, and all who do
// share that one.
func TestFresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var shared look.Shared[int]
		c := &counter{let: make(chan error)}
		first := asking(t.Context(), shared.Fresh, c)
		var rest []<-chan answer
		for range 200 {
			rest = append(rest, asking(t.Context(), shared.Fresh, c))
		}
		require.Equal(t, 201, shared.Sharing())
		require.Equal(t, 1, c.begun, "one is under way")
		c.let <- nil
		require.Equal(t, answer{1, nil}, <-first)
		synctest.Wait()
		require.Equal(t, 2, c.begun)
		late := asking(t.Context(), shared.Fresh, c)
		c.let <- nil
		for _, each := range rest {
			require.Equal(t, answer{2, nil}, <-each)
		}
		c.let <- nil
		require.Equal(t, answer{3, nil}, <-late)
		synctest.Wait()
		require.Zero(t, shared.Sharing())
	})
}

// TestLatest: the answer that is on its way is enough, and none that was given.
func TestLatest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var shared look.Shared[int]
		c := &counter{let: make(chan error)}
		first, second := asking(t.Context(), shared.Latest, c), asking(t.Context(), shared.Latest, c)
		c.let <- nil
		require.Equal(t, answer{1, nil}, <-first)
		require.Equal(t, answer{1, nil}, <-second)
		third := asking(t.Context(), shared.Latest, c)
		c.let <- nil
		require.Equal(t, answer{2, nil}, <-third)
	})
}

// TestErrorIsShared: a database that is gone is asked once and not by each in turn.
func TestErrorIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var shared look.Shared[int]
		c, gone := &counter{let: make(chan error)}, errors.New("gone")
		first := asking(t.Context(), shared.Fresh, c)
		second, third := asking(t.Context(), shared.Fresh, c), asking(t.Context(), shared.Fresh, c)
		c.let <- nil
		<-first
		c.let <- gone
		require.ErrorIs(t, (<-second).err, gone)
		require.ErrorIs(t, (<-third).err, gone)
		require.Equal(t, 2, c.begun)
	})
}

// TestEndOfOne: the end of who asks is not that of those who wait for the answer, and who waits need not.
func TestEndOfOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var shared look.Shared[int]
		c, left := &counter{let: make(chan error)}, errors.New("left")
		asker, leave := context.WithCancelCause(t.Context())
		waiter, leaveToo := context.WithCancelCause(t.Context())
		first := asking(asker, shared.Latest, c)
		second, third := asking(t.Context(), shared.Latest, c), asking(waiter, shared.Latest, c)
		fresh := asking(t.Context(), shared.Fresh, c)
		leaveToo(left)
		require.ErrorIs(t, (<-third).err, left)
		leave(left)
		require.ErrorIs(t, (<-first).err, left)
		synctest.Wait()
		require.Equal(t, 2, c.begun, "asked again by one of the others")
		c.let <- nil
		synctest.Wait()
		select { // the two who are left have the turn in either order
		case got := <-second:
			require.Equal(t, answer{2, nil}, got)
			c.let <- nil
			require.Equal(t, answer{3, nil}, <-fresh)
		case got := <-fresh:
			require.Equal(t, answer{2, nil}, got)
			c.let <- nil
			require.Equal(t, answer{3, nil}, <-second)
		}
	})
}

// TestAbandonedAndForgotten: a question of which all are gone is in nobody's way.
func TestAbandonedAndForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var shared look.Shared[int]
		c := &counter{let: make(chan error)}
		asker, leave := context.WithCancel(t.Context())
		first := asking(asker, shared.Fresh, c)
		leave()
		require.ErrorIs(t, (<-first).err, context.Canceled)
		for i, method := range []func(context.Context, func(context.Context) (int, error)) (int, error){shared.Latest, shared.Fresh} {
			next := asking(t.Context(), method, c)
			c.let <- nil
			require.Equal(t, answer{i + 2, nil}, <-next)
		}
	})
}
