package classifier

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestReadModelErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		change []string
		want   string // with FILE for the path of model.yaml
	}{
		"unknown key":       {[]string{"temperature: 2", "temprature: 2"}, `read model: FILE:9:1: unknown field "temprature"`},
		"wrong type":        {[]string{"size: 8", "size: eight"}, `read model: FILE:7:28: cannot unmarshal string into Go struct field Model.Input of type int`},
		"not YAML":          {[]string{"classes: [", "classes: [["}, `read model: FILE:7:1: ',' or ']' must be specified`},
		"a class is absent": {[]string{"spine, others", "others"}, `read model: FILE: classes must hold spine`},
		"an unknown class":  {[]string{"adult_chest", "chest"}, `read model: FILE: classes must hold adult_chest; classes: unknown class "chest", did you mean "adult_chest"?`},
		"a class twice":     {[]string{"[spine", "[spine, spine"}, `read model: FILE: classes: spine is named twice`},
		"no temperature":    {[]string{"temperature: 2\n", ""}, `read model: FILE: temperature must be greater than 0 (got 0)`},
		"threshold":         {[]string{"0.75", "75"}, `read model: FILE: thresholds: spine must be between 0 and 1 (got 75)`},
		"threshold's class": {[]string{"spine: 0.75", "spin: 0.75"}, `read model: FILE: thresholds: unknown class "spin", did you mean "spine"?`},
		"normalisation":     {[]string{"per_image", "perimage"}, `read model: FILE: input.normalisation must be per_image or mean_std (got "perimage")`},
		"mean_std without":  {[]string{"per_image, mean: 0, std: 1", "mean_std, mean: 0, std: 0"}, `read model: FILE: input.std must be between 1e-06 and 1e+06 (got 0)`},
		"layout":            {[]string{"NCHW", "NHWC"}, `read model: FILE: input.layout must be NCHW (got "NHWC")`},
		"a path":            {[]string{"file: model.onnx", "file: ../model.onnx"}, `read model: FILE: file must be the name of a file in the same folder (got "../model.onnx")`},
		"several":           {[]string{"name: tiny", "name: a@b", "channels: 1", "channels: 3"}, `read model: FILE: name must be a word without @ (got "a@b"); input.channels must be 1 (got 3)`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, "tiny.onnx", tc.change...)
			_, err := ReadModel(dir)
			if err == nil || strings.ReplaceAll(err.Error(), filepath.Join(dir, ModelFile), "FILE") != tc.want {
				t.Errorf("got\n%v\nwant\n%s", err, tc.want)
			}
		})
	}
}

func TestMissingFiles(t *testing.T) {
	empty := t.TempDir()
	_, err := Load(empty, Options{})
	want := "read model: " + filepath.Join(empty, ModelFile) + " does not exist: set model.dir to a folder that holds model.yaml and the network"
	if err == nil || err.Error() != want {
		t.Errorf("no description: %v", err)
	}
	dir := folder(t, "tiny.onnx", "file: model.onnx", "file: other.onnx")
	_, err = Load(dir, Options{})
	if want := "read network: open " + filepath.Join(dir, "other.onnx") + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("no network: %v", err)
	}
}

func TestChangedNetworkIsRefused(t *testing.T) {
	dir := folder(t, "tiny.onnx")
	path := filepath.Join(dir, "model.onnx")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, append(content, 0))
	_, err = Load(dir, Options{})
	if err == nil || !strings.HasPrefix(err.Error(), path+" is not the network that model.yaml describes: its SHA-256 is ") {
		t.Errorf("got %v", err)
	}
}

func TestLibraryVersionsInOrder(t *testing.T) {
	list := []string{"/c/onnxruntime-1.9.0/libonnxruntime.so.1", "/c/onnxruntime-1.30.0/libonnxruntime.so.1", "/c/onnxruntime-1.24.2/libonnxruntime.so.1"}
	slices.SortFunc(list, compareVersions)
	want := []string{"1.9.0", "1.24.2", "1.30.0"}
	for i, path := range list {
		if !strings.Contains(path, want[i]) {
			t.Errorf("place %d: %s, want %s", i, path, want[i])
		}
	}
}

// A process loads one library, so the search is tried out in processes of its own: this test runs itself.
func TestLibrarySearch(t *testing.T) {
	if os.Getenv("LIBRARY_SEARCH") != "" {
		_, err := openLibrary("")
		if err != nil {
			t.Logf("RESULT %v", err)
			return
		}
		t.Logf("RESULT found")
		return
	}
	text := filepath.Join(t.TempDir(), "libonnxruntime.so.1")
	write(t, text, []byte("not a library"))
	for name, tc := range map[string]struct {
		env  []string
		want string
	}{
		"named and absent":     {[]string{LibraryEnv + "=/nowhere/libonnxruntime.so"}, "RESULT load ONNX Runtime: /nowhere/libonnxruntime.so: cannot open shared object file: No such file or directory"},
		"named and no library": {[]string{LibraryEnv + "=" + text}, "RESULT load ONNX Runtime: " + text + ": "},
		"nowhere":              {[]string{LibraryEnv + "="}, "RESULT " + ErrNoLibrary.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=TestLibrarySearch$", "-test.v")
			command.Dir = t.TempDir() // outside the checkout, so that its .cache is not found
			command.Env = append([]string{"LIBRARY_SEARCH=1", "HOME=" + os.Getenv("HOME")}, tc.env...)
			out, err := command.CombinedOutput()
			if name == "nowhere" && strings.Contains(string(out), "RESULT found") {
				t.Skip("this machine has a libonnxruntime of its own")
			}
			if err != nil || !strings.Contains(string(out), tc.want) {
				t.Errorf("%v: %s\nwant %s", err, out, tc.want)
			}
		})
	}
}
