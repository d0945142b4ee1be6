// A watchdog as one is written in Go in an hour: net/http, a command for each call, and what it says on stderr in the
// log, line by line, with what was done. The reference of tests/bench/watchdog.
package main

import (
	"bufio"
	"log"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

func main() {
	words := strings.Split(os.Getenv("fprocess"), " ")
	http.HandleFunc("/_/ready", func(answer http.ResponseWriter, _ *http.Request) {})
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		started := time.Now()
		log.Print("Forking fprocess.")
		command := exec.CommandContext(request.Context(), words[0], words[1:]...)
		command.Env = append(os.Environ(), "Http_Method="+request.Method, "Http_Path="+request.URL.Path)
		for name, values := range request.Header {
			command.Env = append(command.Env, "Http_"+strings.ReplaceAll(name, "-", "_")+"="+values[0])
		}
		command.Stdin = request.Body
		command.Stdout = answer
		errors, err := command.StderrPipe()
		if err == nil {
			err = command.Start()
		}
		if err == nil {
			for lines := bufio.NewScanner(errors); lines.Scan(); {
				log.Print("stderr: ", lines.Text())
			}
			err = command.Wait()
		}
		if err != nil {
			log.Print(err)
			answer.WriteHeader(http.StatusInternalServerError)
			return
		}
		log.Printf("Duration: %fs", time.Since(started).Seconds())
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
