// Command failover writes numbers through go-redis's failover client until its standard input is closed, and prints
// the outcomes as JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

type report struct {
	Acknowledged   []int          `json:"acknowledged"`
	LongestPauseMs int64          `json:"longest_pause_ms"`
	Errors         map[string]int `json:"errors"`
}

func main() {
	name := flag.String("name", "", "name of the cluster")
	sentinels := flag.String("sentinels", "", "comma-separated HOST:PORT of some nodes")
	flag.Parse()
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName:    *name,
		SentinelAddrs: strings.Split(*sentinels, ","),
	})
	defer client.Close()

	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	if err := json.NewEncoder(os.Stdout).Encode(write(client, ended)); err != nil {
		log.Fatal(err)
	}
}

func write(client *redis.Client, ended <-chan struct{}) report {
	found := report{Errors: map[string]int{}}
	last := time.Now()
	for number := 1; ; number++ {
		select {
		case <-ended:
			return found
		default:
		}
		if err := client.Set(context.Background(), fmt.Sprintf("go:%d", number), number, 0).Err(); err != nil {
			found.Errors[kind(err)]++
			time.Sleep(10 * time.Millisecond)
			continue
		}
		now := time.Now()
		if pause := now.Sub(last).Milliseconds(); pause > found.LongestPauseMs {
			found.LongestPauseMs = pause
		}
		last = now
		found.Acknowledged = append(found.Acknowledged, number)
	}
}

// kind returns the first word of the server's error, or "connection".
func kind(err error) string {
	var reply redis.Error
	if errors.As(err, &reply) {
		return strings.SplitN(reply.Error(), " ", 2)[0]
	}
	return "connection"
}
