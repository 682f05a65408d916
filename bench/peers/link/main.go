// Command link is a long, thin wire in front of a server: it delays what passes, and caps what comes back.
//
//	link -listen 127.0.0.1:9000 -upstream 127.0.0.1:8000 -rtt 40ms -rate 500000000
//
// Modelled, because it decides how many connections and requests pay: half of the round trip in each direction; a
// round trip before a new connection carries anything (the handshake); TCP's slow start of each connection, from 10
// segments, doubled by what is acknowledged, up to a window of 4 MiB; one bottleneck that all connections share in
// order of arrival, with a queue of 50 ms. Not modelled: loss, and slow start after an idle time.
package main

import (
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"sync"
	"time"
)

const (
	firstWindow = 10 * 1460
	lastWindow  = 4 << 20
	chunkBytes  = 64 << 10
	longestLine = 50 * time.Millisecond // of the bottleneck's queue
)

var buffers = sync.Pool{New: func() any { return new([chunkBytes]byte) }}

// wire is what all connections share.
type wire struct {
	rtt  time.Duration
	rate float64 // bytes per second, towards the client

	lock sync.Mutex
	free time.Time // when the bottleneck will have sent what it was given
}

// send gives n bytes to the bottleneck and returns when they have passed it; it waits while the queue is full.
func (w *wire) send(n int) time.Time {
	for {
		w.lock.Lock()
		now := time.Now()
		if w.free.Before(now) {
			w.free = now
		}
		if wait := w.free.Sub(now) - longestLine; wait > 0 {
			w.lock.Unlock()
			time.Sleep(wait)
			continue
		}
		w.free = w.free.Add(time.Duration(float64(n) / w.rate * float64(time.Second)))
		passed := w.free
		w.lock.Unlock()
		return passed
	}
}

// parcel is a piece of one direction's bytes and when it arrives; no buffer means the end.
type parcel struct {
	buffer  *[chunkBytes]byte
	length  int
	arrives time.Time
}

// window is TCP's congestion window: bytes that may be on their way unacknowledged.
type window struct {
	lock    sync.Mutex
	changed *sync.Cond
	size    int
	used    int
	closed  bool
}

func newWindow() *window {
	made := &window{size: firstWindow}
	made.changed = sync.NewCond(&made.lock)
	return made
}

// room waits for room and returns how much there is; 0 once the connection is closed.
func (w *window) room() int {
	w.lock.Lock()
	defer w.lock.Unlock()
	for w.used >= w.size && !w.closed {
		w.changed.Wait()
	}
	if w.closed {
		return 0
	}
	return w.size - w.used
}

func (w *window) take(n int) {
	w.lock.Lock()
	w.used += n
	w.lock.Unlock()
}

func (w *window) acknowledge(n int) {
	w.lock.Lock()
	w.used -= n
	w.size = min(w.size+n, lastWindow)
	w.lock.Unlock()
	w.changed.Signal()
}

func (w *window) close() {
	w.lock.Lock()
	w.closed = true
	w.lock.Unlock()
	w.changed.Signal()
}

func main() {
	listen := flag.String("listen", "", "IP:PORT to listen on")
	upstream := flag.String("upstream", "", "IP:PORT of the server")
	rtt := flag.Duration("rtt", 40*time.Millisecond, "from one end to the other and back")
	rate := flag.Float64("rate", 125e6, "bytes per second of all connections together, towards the client")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	shared := &wire{rtt: *rtt, rate: *rate}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go join(shared, client.(*net.TCPConn), *upstream, time.Now())
	}
}

// join passes bytes between a client and the server until both have ended.
func join(shared *wire, client *net.TCPConn, upstream string, accepted time.Time) {
	defer client.Close()
	dialed, err := net.Dial("tcp", upstream)
	if err != nil {
		log.Print(err)
		return
	}
	server := dialed.(*net.TCPConn)
	defer server.Close()
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		requests(shared, client, server, accepted)
	}()
	go func() {
		defer both.Done()
		answers(shared, server, client)
	}()
	both.Wait()
}

// requests passes what the client says: delayed, not capped.
func requests(shared *wire, client, server *net.TCPConn, accepted time.Time) {
	parcels := make(chan parcel, 4096)
	go func() {
		defer close(parcels)
		for {
			buffer := buffers.Get().(*[chunkBytes]byte)
			n, err := client.Read(buffer[:])
			// The client's kernel was connected at once; over a wire it would be after a round trip.
			sent := time.Now()
			if connected := accepted.Add(shared.rtt); sent.Before(connected) {
				sent = connected
			}
			if n > 0 {
				parcels <- parcel{buffer, n, sent.Add(shared.rtt / 2)}
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					parcels <- parcel{arrives: sent.Add(shared.rtt / 2)}
				} else {
					server.Close()
				}
				return
			}
		}
	}()
	deliver(parcels, server, func(int) {}, func() {})
}

// answers passes what the server says: through window and bottleneck, delayed.
func answers(shared *wire, server, client *net.TCPConn) {
	parcels := make(chan parcel, 4096)
	open := newWindow()
	go func() {
		defer close(parcels)
		for {
			room := open.room()
			if room == 0 {
				server.Close()
				return
			}
			buffer := buffers.Get().(*[chunkBytes]byte)
			n, err := server.Read(buffer[:min(room, chunkBytes)])
			if n > 0 {
				open.take(n)
				parcels <- parcel{buffer, n, shared.send(n).Add(shared.rtt / 2)}
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					parcels <- parcel{arrives: time.Now().Add(shared.rtt / 2)}
				} else {
					client.Close()
				}
				return
			}
		}
	}()
	acknowledge := func(n int) {
		time.AfterFunc(shared.rtt/2, func() { open.acknowledge(n) })
	}
	deliver(parcels, client, acknowledge, open.close)
}

// deliver writes each parcel when it arrives, until there are no more; it drops them once a write has failed.
func deliver(parcels <-chan parcel, to *net.TCPConn, arrived func(int), broke func()) {
	failed := false
	for next := range parcels {
		if failed {
			continue
		}
		time.Sleep(time.Until(next.arrives))
		if next.buffer == nil {
			to.CloseWrite()
			continue
		}
		_, err := to.Write(next.buffer[:next.length])
		buffers.Put(next.buffer)
		if err != nil {
			failed = true
			to.Close()
			broke()
			continue
		}
		arrived(next.length)
	}
}
