package orthanctest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Config says what Orthanc to start. Its zero value is the oldest installed Orthanc with one user and an empty store.
type Config struct {
	Version   string            // a version or a line ("1.12"); "" is the oldest installed
	Name      string            // shown in Orthanc's page
	AET       string            // its DICOM title; ORTHANC when empty
	HTTPPort  int               // 0: a free one
	DicomPort int               // 0: a free one
	Dir       string            // storage, configuration and log; "" is a new temporary folder
	Users     map[string]string // name to password; nil is one user "test", an empty map switches authentication off
	Lua       []string          // scripts, in this order
	Env       []string          // NAME=value, added to this process's environment
	DICOMweb  bool              // loads the DICOMweb plugin
	Verbose   bool              // Orthanc logs every request
	Extra     map[string]any    // laid over the configuration: "OverwriteInstances", "OrthancPeers", …
}

// json returns the configuration file.
func (c Config) json(version string) ([]byte, error) {
	lua := make([]string, 0, len(c.Lua))
	for _, script := range c.Lua {
		path, err := filepath.Abs(script)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("orthanctest: Lua script: %w", err)
		}
		lua = append(lua, path)
	}
	storage := filepath.Join(c.Dir, "storage")
	settings := map[string]any{
		"Name":                  c.Name,
		"StorageDirectory":      storage,
		"IndexDirectory":        storage,
		"HttpPort":              c.HTTPPort,
		"DicomPort":             c.DicomPort,
		"DicomAet":              c.AET,
		"DicomCheckCalledAet":   false,
		"RemoteAccessAllowed":   false,
		"AuthenticationEnabled": len(c.Users) > 0,
		"RegisteredUsers":       c.Users,
		"LuaScripts":            lua,
		"JobsHistorySize":       1000,
		"ConcurrentJobs":        8,         // as in orthanc/orthanc.json
		"Locale":                "C.UTF-8", // the default, en_US, is on few servers
		"UserMetadata":          map[string]int{"BodyPart": 5110, "BodyPartResult": 5111, "BodyPartMarker": 5113},
	}
	if c.DICOMweb {
		plugin := filepath.Join(cache(), "orthanc-"+version, "usr", "share", "orthanc", "plugins", "libOrthancDicomWeb.so")
		if _, err := os.Stat(plugin); err != nil {
			return nil, fmt.Errorf("orthanctest: DICOMweb plugin: %w", err)
		}
		settings["Plugins"] = []string{plugin}
		settings["DicomWeb"] = map[string]any{"Enable": true}
	}
	maps.Copy(settings, c.Extra)
	return json.MarshalIndent(settings, "", "  ")
}

// firstUser returns the account that the Server's own requests use.
func (c Config) firstUser() (name, password string) {
	if len(c.Users) == 0 {
		return "", ""
	}
	name = slices.Min(slices.Collect(maps.Keys(c.Users)))
	return name, c.Users[name]
}

// Ports below the range from which the kernel takes the ports of outgoing connections: such a connection, of another test, could
// otherwise sit on the port of an Orthanc that is being restarted.
const firstPort, lastPort = 15000, 32000

var taken = struct {
	sync.Mutex
	ports map[int]*os.File // the locks
}{ports: map[int]*os.File{}}

// FreePort returns a TCP port that nobody listens on and that neither this process nor another test's has been given: a file lock
// reserves it for the life of the process, since an Orthanc that is being restarted leaves its port alone for a while.
func FreePort() (int, error) {
	taken.Lock()
	defer taken.Unlock()
	folder := filepath.Join(os.TempDir(), "orthanctest-ports-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return 0, fmt.Errorf("orthanctest: reserve a port: %w", err)
	}
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if taken.ports[port] != nil {
			continue
		}
		lock, err := os.OpenFile(filepath.Join(folder, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return 0, fmt.Errorf("orthanctest: reserve a port: %w", err)
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !free(port) {
			_ = lock.Close()
			continue
		}
		taken.ports[port] = lock // held until the process ends
		return port, nil
	}
	return 0, errors.New("orthanctest: no free port")
}

// free says whether the port can be bound on all addresses, as Orthanc does.
func free(port int) bool {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port)) //nolint:noctx // does not block
	return err == nil && l.Close() == nil
}
