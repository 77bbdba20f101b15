package phantom

import "math"

// build is what tells a child's chest from an adult's: the proportions.
type build struct {
	lungWidth, lungHeight float64 // half axes
	heart                 float64 // half width
	ribs                  int
	belly                 float64 // half width of the trunk
}

var (
	adult = build{lungWidth: 0.36, lungHeight: 0.74, heart: 0.27, ribs: 9, belly: 0.98}
	child = build{lungWidth: 0.31, lungHeight: 0.48, heart: 0.34, ribs: 8, belly: 0.84}
)

// chest draws a frontal chest: trunk, two lungs, ribs, mediastinum, heart to the patient's left, diaphragm.
func (s *sketcher) chest(b build) {
	tall := b.lungHeight
	s.ellipse(0, 0.25, s.about(b.belly, 0.03), 1.45, 0, 1.5, 0.7)
	s.tube(point{-0.1, -1.2}, point{0.1, -1.2}, 0.42, 0.5) // neck
	apart := b.lungWidth + 0.12
	for _, side := range []float64{-1, 1} {
		s.ellipse(side*apart, s.about(-0.08, 0.2), s.about(b.lungWidth, 0.06), s.about(tall, 0.04), side*0.10, -1.15, 0.75)
		s.tube(point{side * 0.10, -tall - 0.02}, point{side * (b.belly - 0.12), -tall - 0.10}, 0.035, 0.4) // clavicle
		s.ellipse(side*(apart+0.02), tall*0.95, b.lungWidth+0.06, tall*0.30, 0, 0.75, 0.6)                 // diaphragm
		for i := range b.ribs {
			s.rib(side, -tall+2*tall*(float64(i)+0.4)/float64(b.ribs)-0.08, b.belly-0.16, tall)
		}
		for range 14 { // vessels fan out of the hilum
			angle := s.random.Float64()*2.4 - 1.2
			reach := s.about(0.24, 0.4) * b.lungWidth / 0.36
			from := point{side * 0.17, 0}
			s.tube(from, point{from.x + side*reach*math.Cos(angle), reach * math.Sin(angle)}, 0.012, 0.14)
		}
	}
	s.tube(point{0, -1.3}, point{0, 1.3}, 0.11, 0.55)
	s.vertebrae(point{0, -1.1}, point{0, 1.2}, 12, 0.09, 0.25, 0)
	s.ellipse(0.13, tall*0.42, s.about(b.heart, 0.07), s.about(tall*0.46, 0.05), -0.5, 0.95, 0.6)
	s.ellipse(0.10, -tall*0.42, 0.10, 0.12, 0, 0.4, 0.5) // aortic arch
}

// rib draws one rib: down and outwards from the spine, then round to the front.
func (s *sketcher) rib(side, y, reach, tall float64) {
	var points []point
	for i := range 9 {
		t := float64(i) / 8
		points = append(points, point{side * (0.08 + reach*math.Sin(t*1.75)), y + tall*(0.30*t*t+0.12*math.Max(0, t-0.6)) - 0.10*math.Sin(t*math.Pi)})
	}
	s.band(points, 0.030*tall/0.74+0.006, 0.28)
}

// vertebrae draws a column of bodies with discs between them and their processes. lateral 0…1 moves the processes to one side.
func (s *sketcher) vertebrae(from, to point, count int, halfWidth, attenuation, lateral float64) {
	step := point{(to.x - from.x) / float64(count), (to.y - from.y) / float64(count)}
	half := math.Hypot(step.x, step.y) * 0.38
	for i := range count {
		x, y := from.x+step.x*(float64(i)+0.5), from.y+step.y*(float64(i)+0.5)
		s.ellipse(x, y, halfWidth, half*1.1, math.Atan2(-step.x, step.y), attenuation, 0.9)
		if lateral > 0 {
			s.ellipse(x+lateral*halfWidth*1.9, y+half*0.6, halfWidth*0.75, half*0.5, 0.5, attenuation*0.6, 0.7)
			continue
		}
		s.ellipse(x, y+half*0.5, halfWidth*0.22, half*0.5, 0, attenuation*0.7, 0.6)
		for _, side := range []float64{-1, 1} {
			s.ellipse(x+side*halfWidth*0.55, y-half*0.2, halfWidth*0.2, half*0.35, 0, attenuation*0.6, 0.5)  // pedicle
			s.ellipse(x+side*halfWidth*1.35, y-half*0.1, halfWidth*0.5, half*0.22, 0, attenuation*0.45, 0.6) // transverse process
		}
	}
}

// abdomen draws the lumbar spine, the pelvis, soft organs and bowel gas.
func (s *sketcher) abdomen() {
	s.ellipse(0, 0, s.about(0.95, 0.03), 1.6, 0, 1.7, 0.75)
	s.vertebrae(point{0, -1.1}, point{s.about(0, 1), 0.42}, 6, 0.15, 0.6, 0)
	s.ellipse(-0.5, -0.75, 0.42, 0.36, 0.3, 0.35, 0.7) // liver
	s.ellipse(0.55, -0.85, 0.24, 0.22, 0, 0.2, 0.7)    // spleen
	for _, side := range []float64{-1, 1} {
		s.ellipse(side*0.50, 0.50, 0.34, 0.28, side*0.6, 0.55, 0.8) // ilium
		s.ellipse(side*0.17, 0.52, 0.10, 0.16, 0, 0.3, 0.6)         // sacrum
		s.ellipse(side*0.30, 0.98, 0.20, 0.14, side*0.4, 0.5, 0.6)  // ischium
		s.ellipse(side*0.30, 0.98, 0.09, 0.06, side*0.4, -0.6, 0.6) // foramen
		s.ellipse(side*0.66, 0.92, 0.13, 0.13, 0, 0.6, 0.6)         // head of the femur
		s.tube(point{side * 0.74, 1.0}, point{side * 0.80, 1.6}, 0.11, 0.6)
		s.tube(point{side * 0.95, -0.95}, point{side * 0.45, -1.05}, 0.03, 0.3) // lowest rib
	}
	for range 22 { // gas
		x, y := s.random.Float64()*1.3-0.65, s.random.Float64()*1.1-0.65
		r := s.about(0.085, 0.5)
		s.ellipse(x, y, r, s.about(r*0.8, 0.3), s.random.Float64()*3, -0.55, 0.5)
	}
}

// spine draws a column from the front or from the side on a narrow strip of soft tissue.
func (s *sketcher) spine() {
	lateral := float64(s.random.IntN(2))
	s.ellipse(0, 0, s.about(0.55, 0.1), 1.7, 0, 1.2, 0.8)
	count := 5 + s.random.IntN(3)
	bend := s.about(0.10, 0.8)
	half := 2.1 / float64(count) / 2
	for i := range count {
		t := (float64(i) + 0.5) / float64(count)
		x := bend * math.Sin(t*math.Pi*1.3)
		y := -1.05 + 2.1*t
		s.vertebrae(point{x, y - half}, point{x + 0.02, y + half}, 1, 0.20+0.05*t, 0.95, lateral)
	}
	s.tube(point{-0.45, 1.1}, point{0.45, 1.1}, 0.2, 0.4) // sacrum's shadow
}

// hand draws a wrist, a palm and five fingers.
func (s *sketcher) hand() {
	wrist := point{0, 0.55}
	s.tube(point{-0.12, 1.4}, point{-0.08, 0.75}, 0.085, 0.9)
	s.tube(point{0.14, 1.4}, point{0.12, 0.78}, 0.07, 0.9)
	s.tube(point{0, 1.5}, point{0, 0.6}, 0.30, 0.45)
	s.ellipse(0, 0.25, 0.42, 0.50, 0, 0.5, 0.7)
	for range 8 { // carpals
		s.ellipse(s.about(0.16, 1)-0.16, wrist.y+s.about(0.06, 1), 0.075, 0.06, s.random.Float64(), 0.45, 0.6)
	}
	for finger := range 5 {
		angle := -0.75 + 0.33*float64(finger) + s.about(0.02, 1)
		reach := []float64{0.85, 1.28, 1.40, 1.30, 1.05}[finger]
		along := func(t float64) point {
			return point{wrist.x + reach*t*math.Sin(angle), wrist.y - reach*t*math.Cos(angle)}
		}
		s.tube(along(0.15), along(1.05), 0.095, 0.4) // flesh
		for i, joint := range []float64{0.10, 0.46, 0.73, 0.90} {
			end := []float64{0.44, 0.71, 0.88, 1.0}[i]
			s.tube(along(joint), along(end), 0.055-0.008*float64(i), 0.8)
		}
	}
}

// knee draws femur, tibia, fibula and patella.
func (s *sketcher) knee() {
	s.tube(point{s.about(0.03, 1), -1.5}, point{0, 0}, 0.42, 0.7)
	s.tube(point{0, 0}, point{s.about(-0.03, 1), 1.5}, 0.38, 0.65)
	s.tube(point{0.02, -1.5}, point{0, -0.35}, 0.17, 1.1)
	s.tube(point{0, 0.35}, point{-0.02, 1.5}, 0.16, 1.1)
	s.tube(point{0.27, 0.35}, point{0.26, 1.5}, 0.06, 0.8)
	for _, side := range []float64{-1, 1} {
		s.ellipse(side*0.16, -0.18, s.about(0.19, 0.06), 0.17, 0, 0.75, 0.7) // condyles
		s.ellipse(side*0.14, 0.20, s.about(0.20, 0.06), 0.12, 0, 0.7, 0.7)   // plateau
	}
	s.ellipse(0.02, -0.28, 0.13, 0.14, 0, 0.35, 0.6) // patella
}
