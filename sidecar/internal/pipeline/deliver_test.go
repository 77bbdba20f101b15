package pipeline

import "testing"

// Every attempt has a job of its own in Orthanc, whose name makes no new trouble of the old one.
func TestSameTrouble(t *testing.T) {
	const a = "job a8c7b874-3e4f-4490-9050-e06dcce43d56 failed: error 9, Error in the network protocol"
	const b = "job b2a2d624-497a-48a5-8ff2-4a446c3b1c75 failed: error 9, Error in the network protocol"
	if !sameTrouble(a, b) {
		t.Error("the same failure of another job is told again")
	}
	if sameTrouble(a, b+": Timeout was reached") || sameTrouble("", a) {
		t.Error("another failure is not told")
	}
}
