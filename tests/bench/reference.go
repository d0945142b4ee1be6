// A watchdog as one is written in Go in an hour: net/http, and a command for each call. The reference of
// tests/bench/watchdog.
package main

import (
	"log"
	"net/http"
	"os"
	"os/exec"
	"strings"
)

func main() {
	words := strings.Split(os.Getenv("fprocess"), " ")
	http.HandleFunc("/_/ready", func(answer http.ResponseWriter, _ *http.Request) {})
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		command := exec.CommandContext(request.Context(), words[0], words[1:]...)
		command.Env = append(os.Environ(), "Http_Method="+request.Method, "Http_Path="+request.URL.Path)
		for name, values := range request.Header {
			command.Env = append(command.Env, "Http_"+strings.ReplaceAll(name, "-", "_")+"="+values[0])
		}
		command.Stdin = request.Body
		command.Stdout = answer
		command.Stderr = os.Stderr
		if err := command.Run(); err != nil {
			log.Print(err)
			answer.WriteHeader(http.StatusInternalServerError)
		}
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}
