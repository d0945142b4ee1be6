// What tests/bench/queue measures with, one word for each:
//
//	append FILE SECONDS               appends a message and syncs it, over and over; how many a second
//	enqueue ADDRESS CLIENTS SECONDS   the same with POST /async-function/noop, each client one after the other
//	call ADDRESS CLIENTS SECONDS      the same with calls that are answered: POST /function/noop
//	publish ADDRESS CLIENTS SECONDS   the same with messages for a stream of NATS, each acknowledged
//	stream ADDRESS                    makes that stream
//	serve                             the function: notes when each request comes, and answers nothing; /times has it
//	latency ADDRESS COUNT             queues calls one after the other; milliseconds from each 202 until the function
//	                                  had the call, the middle and the 99th of a hundred
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var message = strings.Repeat("x", 256)

func main() {
	words := append(os.Args[1:], "", "", "", "")
	count, _ := strconv.Atoi(words[2])
	seconds, _ := strconv.ParseFloat(words[3], 64)
	switch words[0] {
	case "append":
		seconds, _ = strconv.ParseFloat(words[2], 64)
		appendOnly(words[1], length(seconds))
	case "enqueue":
		calls(words[1], "/async-function/noop", "202", count, length(seconds))
	case "call":
		calls(words[1], "/function/noop", "200", count, length(seconds))
	case "publish":
		load(count, length(seconds), func(number int) client {
			inbox := fmt.Sprintf("_INBOX.%d", number)
			begin := fmt.Sprintf("CONNECT {\"verbose\":false}\r\nSUB %s 1\r\n", inbox)
			request := fmt.Sprintf("PUB jobs.noop %s %d\r\n%s\r\n", inbox, len(message), message)
			return connect(words[1], begin, request, func(reader *bufio.Reader) { acknowledged(reader) })
		})
	case "stream":
		stream(words[1])
	case "serve":
		serve()
	case "latency":
		latency(words[1], count)
	default:
		log.Fatalf("%q is none of the words", words[0])
	}
}

func length(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func appendOnly(path string, length time.Duration) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(err)
	count := 0
	for begin := time.Now(); time.Since(begin) < length; count++ {
		_, err = file.WriteString(message)
		check(err)
		check(syscall.Fdatasync(int(file.Fd())))
	}
	fmt.Printf("%.0f\n", float64(count)/length.Seconds())
}

func calls(address, path, code string, clients int, length time.Duration) {
	request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%s", path, len(message), message)
	load(clients, length, func(int) client {
		return connect(address, "", request, func(reader *bufio.Reader) { answer(reader, code) })
	})
}

// One thing after the other: sends a request, and returns when it is answered.
type client func()

// load lets clients do what they do, at the same time, and prints how often a second.
func load(clients int, length time.Duration, begin func(number int) client) {
	var count atomic.Int64
	var all sync.WaitGroup
	ready := make([]client, clients)
	for number := range ready {
		ready[number] = begin(number)
	}
	end := time.Now().Add(length)
	for _, one := range ready {
		all.Add(1)
		go func(one client) {
			defer all.Done()
			for time.Now().Before(end) {
				one()
				count.Add(1)
			}
		}(one)
	}
	all.Wait()
	fmt.Printf("%.0f\n", float64(count.Load())/length.Seconds())
}

func connect(address, begin, request string, read func(*bufio.Reader)) client {
	connection, err := net.Dial("tcp", address)
	check(err)
	_, err = io.WriteString(connection, begin)
	check(err)
	reader := bufio.NewReader(connection)
	return func() {
		_, err := io.WriteString(connection, request)
		check(err)
		read(reader)
	}
}

// answer reads the head of an answer that has no body.
func answer(reader *bufio.Reader, code string) {
	for number := 0; ; number++ {
		line, err := reader.ReadString('\n')
		check(err)
		if number == 0 && !strings.Contains(line, " "+code+" ") {
			rest, _ := reader.Peek(reader.Buffered())
			log.Fatalf("answered %s%s", line, rest)
		}
		if line == "\r\n" {
			return
		}
	}
}

// acknowledged reads the next message from NATS, which says that one was kept.
func acknowledged(reader *bufio.Reader) string {
	for {
		line, err := reader.ReadString('\n')
		check(err)
		if strings.HasPrefix(line, "-ERR") {
			log.Fatal(line)
		}
		if strings.HasPrefix(line, "MSG") {
			text, err := reader.ReadString('\n')
			check(err)
			if strings.Contains(text, "error") {
				log.Fatal(text)
			}
			return text
		}
	}
}

func stream(address string) {
	settings := `{"name":"jobs","subjects":["jobs.>"],"storage":"file","retention":"workqueue","num_replicas":1}`
	request := fmt.Sprintf("PUB $JS.API.STREAM.CREATE.jobs _INBOX.s %d\r\n%s\r\n", len(settings), settings)
	connect(address, "CONNECT {\"verbose\":false}\r\nSUB _INBOX.s 1\r\n", request, func(reader *bufio.Reader) { acknowledged(reader) })()
}

// now is the same clock in a container and beside it.
func now() int64 { return time.Now().UnixNano() }

func serve() {
	var guard sync.Mutex
	times := map[string]int64{}
	http.HandleFunc("/times", func(answer http.ResponseWriter, _ *http.Request) {
		guard.Lock()
		defer guard.Unlock()
		check(json.NewEncoder(answer).Encode(times))
		times = map[string]int64{}
	})
	http.HandleFunc("/", func(_ http.ResponseWriter, request *http.Request) {
		came := now()
		if strings.HasPrefix(request.URL.Path, "/note/") {
			guard.Lock()
			times[request.URL.Path] = came
			guard.Unlock()
		}
	})
	check(http.ListenAndServe(":8080", nil))
}

func latency(address string, count int) {
	connection, err := net.Dial("tcp", address)
	check(err)
	reader := bufio.NewReader(connection)
	accepted := map[string]int64{}
	for number := 0; number < count; number++ {
		path := fmt.Sprintf("/note/%d", number)
		_, err := fmt.Fprintf(connection, "POST /async-function/noop%s HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n", path)
		check(err)
		answer(reader, "202")
		accepted[path] = now()
		time.Sleep(3 * time.Millisecond)
	}
	time.Sleep(time.Second)
	found, err := http.Get("http://" + address + "/function/noop/times")
	check(err)
	defer found.Body.Close()
	times := map[string]int64{}
	check(json.NewDecoder(found.Body).Decode(&times))
	var all []float64
	for path, at := range accepted {
		came, ok := times[path]
		if !ok {
			log.Fatalf("%s was not made", path)
		}
		// It may come before the client has read its 202.
		all = append(all, float64(max(came-at, 0))/1e6)
	}
	sort.Float64s(all)
	fmt.Printf("%.2f %.2f\n", all[len(all)/2], all[len(all)*99/100])
}

func max(a, b int64) int64 {
	if a > b {
		return a
	}
	return b
}
