//go:build docker

package compose_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
)

func limits(s *stack) {
	all, _ := s.inspect()
	require.Len(s, all, 6)
	for name, c := range all {
		h := c.HostConfig
		require.Positive(s, h.Memory, name)
		require.Positive(s, h.NanoCpus, name)
		require.Positive(s, h.PidsLimit, name)
		require.Contains(s, h.SecurityOpt, "no-new-privileges:true", name)
		require.Equal(s, "json-file", h.LogConfig.Type, name)
		require.NotEmpty(s, h.LogConfig.Config["max-size"], name)
		require.NotEmpty(s, h.LogConfig.Config["max-file"], name)
		want := "unless-stopped"
		if name == "modality" {
			want = "no"
		}
		require.Equal(s, want, h.RestartPolicy.Name, name)
		require.NotContains(s, []string{"", "root", "0"}, c.Config.User, name)
	}
	for _, name := range []string{"imaging-router", "proxy", "modality"} {
		require.True(s, all[name].HostConfig.ReadonlyRootfs, name)
		require.Equal(s, []string{"ALL"}, all[name].HostConfig.CapDrop, name)
	}
	_, err := s.try(s.Context(), "docker", "compose", "exec", "-T", "imaging-router", "sh", "-c", "echo x >/opt/imaging-router/x")
	require.Error(s, err, "the router can write beside its program")
}

// ports scans from this machine, which is outside of the network of the containers.
func ports(s *stack) {
	all, _ := s.inspect()
	documented := map[string]string{
		"orthanc 4242/tcp": "DICOM_PORT", "orthanc 8042/tcp": "ORTHANC_PORT", "imaging-router 8081/tcp": "ROUTER_PORT",
		"proxy 8443/tcp": "HTTPS_PORT", "chest-ai 8042/tcp": "CHEST_AI_PORT", "spine-ai 8042/tcp": "SPINE_AI_PORT",
	}
	listening := map[string][]int{"orthanc": {4242, 8042}, "chest-ai": {4242, 8042}, "spine-ai": {4242, 8042}, "imaging-router": {8081}, "proxy": {8443}}
	published := map[string]string{}
	for name, c := range all {
		for port, where := range c.NetworkSettings.Ports {
			for _, w := range where {
				require.Equal(s, "127.0.0.1", w.HostIp, "%s %s", name, port)
				published[name+" "+port] = w.HostPort
			}
		}
		if !c.State.Running {
			continue
		}
		for _, network := range c.NetworkSettings.Networks {
			require.Equal(s, listening[name], scan(network.IPAddress), "%s listens on other ports than documented", name)
		}
	}
	require.Equal(s, slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(published)))
	addresses, err := net.InterfaceAddrs()
	require.NoError(s, err)
	for where, variable := range documented {
		require.Equal(s, strconv.Itoa(s.ports[variable]), published[where])
		require.True(s, open("127.0.0.1", s.ports[variable]), where)
		for _, a := range addresses { // the same port at this machine's other addresses
			if ip := a.(*net.IPNet).IP; !ip.IsLoopback() && ip.To4() != nil {
				require.False(s, open(ip.String(), s.ports[variable]), "%s is reached at %s", where, ip)
			}
		}
	}
}

func open(host string, port int) bool {
	c, err := (&net.Dialer{Timeout: 2 * time.Second}).Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	return err == nil && c.Close() == nil
}

// scan returns every TCP port of an address that takes connections.
func scan(host string) []int {
	var mu sync.Mutex
	var found []int
	var all sync.WaitGroup
	queue := make(chan int)
	for range 200 {
		all.Go(func() {
			for port := range queue {
				if open(host, port) {
					mu.Lock()
					found = append(found, port)
					mu.Unlock()
				}
			}
		})
	}
	for port := 1; port < 1<<16; port++ {
		queue <- port
	}
	close(queue)
	all.Wait()
	slices.Sort(found)
	return found
}

func secretsStaySecret(s *stack) {
	secrets := map[string][]byte{}
	for name, text := range content(s.T, s.secrets) {
		if strings.HasSuffix(name, "_password") || name == "hook_token" {
			secrets[name] = []byte(text)
		}
		if strings.HasSuffix(name, "key.pem") || strings.HasSuffix(name, ".key") {
			secrets[name] = []byte(strings.Split(text, "\n")[1])
		}
	}
	require.Len(s, secrets, 7)
	clean := func(where, text string) {
		s.Helper()
		for name, value := range secrets {
			require.NotContains(s, text, string(value), "%s is in %s", name, where)
		}
	}
	_, text := s.inspect()
	clean("docker inspect", text)
	clean("the logs", s.compose("logs", "--no-color"))
	clean("docker compose config", s.compose("config"))
	for _, service := range []string{"orthanc", "imaging-router", "chest-ai", "proxy"} {
		clean("the environment of "+service, s.compose("exec", "-T", service, "sh", "-c", "cat /proc/1/environ /proc/1/cmdline"))
	}
	for _, image := range []string{"orthanc-proof", "imaging-router-proof", "imaging-router-modality:local", "imaging-router-proxy:local"} {
		clean("the history of "+image, s.run("docker", "history", "--no-trunc", image))
		clean("docker inspect "+image, s.run("docker", "inspect", image))
		files := searchImage(s, image, secrets)
		require.Greater(s, files, 1000, "the layers of %s were not read", image)
	}
	// The search itself is no good when it cannot find what is there.
	require.NoError(s, os.WriteFile(s.clone+"/Dockerfile.leak", []byte("FROM "+os.Getenv("BASE_IMAGE")+"\nCOPY sidecar/leaked /tmp/\nRUN rm /tmp/leaked\n"), 0o600))
	require.NoError(s, os.WriteFile(s.clone+"/sidecar/leaked", append(bytes.Repeat([]byte("x"), 1<<20-7), secrets["hook_token"]...), 0o600))
	s.run("docker", "build", "--quiet", "--file", "Dockerfile.leak", "--tag", "imaging-router-leak", ".")
	defer s.run("docker", "rmi", "--force", "imaging-router-leak")
	_, err := search(s, "imaging-router-leak", secrets)
	require.ErrorContains(s, err, "hook_token")
}

func searchImage(s *stack, image string, secrets map[string][]byte) int {
	s.Helper()
	files, err := search(s, image, secrets)
	require.NoError(s, err)
	return files
}

// search reads every layer of an image, deleted files included, and returns how many files it has read.
func search(s *stack, image string, secrets map[string][]byte) (files int, err error) {
	c := exec.CommandContext(s.Context(), "docker", "save", image)
	pipe, err := c.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := c.Start(); err != nil {
		return 0, err
	}
	files, err = searchTar(pipe, image, secrets)
	_, drained := io.Copy(io.Discard, pipe)
	return files, errors.Join(err, drained, c.Wait())
}

func searchTar(r io.Reader, where string, secrets map[string][]byte) (files int, err error) {
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		name := where + ":" + header.Name
		content := bufio.NewReaderSize(archive, 64<<10)
		layer := strings.Count(where, ":") <= 1 && (strings.HasSuffix(header.Name, "layer.tar") || strings.HasPrefix(header.Name, "blobs/"))
		head, _ := content.Peek(262) // shorter is no layer
		switch {
		case layer && bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
			unpacked, err := gzip.NewReader(content)
			if err != nil {
				return files, err
			}
			n, err := searchTar(unpacked, name, secrets)
			if files += n; err != nil {
				return files, err
			}
		case layer && len(head) == 262 && string(head[257:262]) == "ustar":
			n, err := searchTar(content, name, secrets)
			if files += n; err != nil {
				return files, err
			}
		default:
			files++
			if found, err := contains(content, secrets); err != nil || found != "" {
				return files, errors.Join(err, errors.New(name+" holds "+found))
			}
		}
	}
}

// contains returns the name of a secret that a text holds.
func contains(r io.Reader, secrets map[string][]byte) (string, error) {
	const overlap = 256 // no secret is longer
	buffer := make([]byte, 0, 1<<20+overlap)
	for {
		n, err := io.ReadFull(r, buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		for name, value := range secrets {
			if bytes.Contains(buffer, value) {
				return name, nil
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		keep := copy(buffer[:overlap], buffer[len(buffer)-overlap:])
		buffer = buffer[:keep]
	}
}
